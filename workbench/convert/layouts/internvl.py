"""InternVL with transformers' names, as transformers 5 saves them. Source: config.json and weight names of OpenGVLab/InternVL3-1B-hf and
OpenGVLab/InternVL3_5-1B-HF."""

from workbench.convert.layout import Layout

LAYOUT = Layout(("internvl",))
