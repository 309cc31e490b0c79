"""How ``demo:stt`` was made: sentences, voices, features, the network, its training, its samples and its measurement.

The model is a Whisper of 6.3 million parameters in the standard multilingual token set, trained from nothing on
synthetic speech.  It exists so that every speech tool of the workbench can be tried end to end without a download.

    python -m workbench.demo.recogniser.train --out build/demo-stt --seed 1
    python -m workbench.demo.recogniser.measure
"""
