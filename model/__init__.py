"""Mixture-of-experts language models: the EMO objective, its standard twin, training, subsets.

Nothing in here knows of pictures, pages or traces. Importing it is light, and enough for
AutoModelForCausalLM.from_pretrained to read the checkpoints.
"""

from model.registration import register

register()
