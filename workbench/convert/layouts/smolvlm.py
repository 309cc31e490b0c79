"""SmolVLM2: names as transformers 5 saves them. Source: config.json and weight names of HuggingFaceTB/SmolVLM2-2.2B-Instruct."""

from workbench.convert.layout import Layout

LAYOUT = Layout(("smolvlm",))
