"""Layer 2: `transformers` models, how they attend to a packed batch, and what is put on top of them."""

import logging

# peft imports bitsandbytes where it is installed, and that warns of kernels which nothing here uses.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
