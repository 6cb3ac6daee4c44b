// How long a person is at an item, and that they still are: seconds while the page is seen and used, and the lock renewed.

const QUIET = 120; // seconds without a touch, after which nobody counts as being there
const SIGNS = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart", "scroll"];

export class Presence {
  /** `second` is called for each second that somebody is there; `renew` a few times in the life of a lock. */
  constructor({ second, renew }) {
    this.renew = renew;
    this.life = 0;
    this.last = this.renewed = performance.now();
    const seen = () => {
      this.last = performance.now();
    };
    for (const sign of SIGNS) addEventListener(sign, seen, { passive: true, capture: true });
    setInterval(() => {
      if (document.hidden || this.#since(this.last) > QUIET) return;
      second();
      if (this.life && this.#since(this.renewed) > Math.min(60, this.life / 3)) this.#renew();
    }, 1000);
  }

  /** A new lock that holds for `seconds`; 0 where there is none. */
  holds(seconds) {
    this.life = seconds;
    this.last = this.renewed = performance.now();
  }

  #renew() {
    this.renewed = performance.now();
    this.renew();
  }

  #since(moment) {
    return (performance.now() - moment) / 1000;
  }
}
