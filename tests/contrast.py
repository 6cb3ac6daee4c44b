"""How far the texts of a page stand out from what they stand on."""

from __future__ import annotations

# The contrast of every text that is seen against what it stands on, by WCAG's formula.
FAINT = """() => {
  const channels = (colour) => {
    const numbers = colour.match(/[\\d.]+/g).map(Number);
    return { rgb: numbers.slice(0, 3), alpha: numbers[3] ?? 1 };
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { rgb, alpha } = channels(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return rgb;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
    const seen = element.checkVisibility({ opacityProperty: true }) && !element.closest(".unseen, #toast");
    if (!words.length || !seen) continue;
    const style = getComputedStyle(element);
    const [one, other] = [light(channels(style.color).rgb), light(ground(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const what = `${element.className || element.tagName} ${words[0].textContent.trim()}`;
    if (ratio < 4.5) faint.push(`${what} ${ratio.toFixed(2)}`);
  }
  return faint;
}"""
