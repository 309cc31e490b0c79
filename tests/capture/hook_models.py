"""An output with attributes and items, as transformers' models return; made without transformers."""


class Attributed(dict):
    __getattr__ = dict.get
    __setattr__ = dict.__setitem__
