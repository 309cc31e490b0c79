"""Every word the demo model knows: what its pictures show, what its prompts say, and its tokens.

One picture word is one token, so that naming a colour, reading a word and matching an option are all one step.
"""

COLOURS = {
    "red": (214, 39, 40),
    "green": (34, 160, 44),
    "blue": (31, 80, 214),
    "yellow": (240, 215, 20),
    "orange": (255, 127, 14),
    "purple": (140, 40, 180),
    "pink": (250, 130, 190),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
_PICTURE_WORDS = """
ant arm bag bed bird boat book box bread cake car cat chair clock corn cow cup dog door duck egg fish fork frog goat hat
horse house key king lamp leaf lion milk moon nest owl pen pig queen rain sun tent tree van whale wolf zebra
"""
WORDS = tuple(_PICTURE_WORDS.split())
LETTERS = "ABCD"
SUBJECT_WORDS = ("price", "total", "change", "number", "amount")

# Wording of the prompt formats and questions; every word in here becomes one token.
_PROMPT_TEXT = """
USER: ASSISTANT: Answer the question using a single word or phrase.
Answer with the option's letter from the given choices directly. Answer this question using the text in the image
directly. Question: Options: Choices: Hint: Please answer the question requiring an integer answer and provide the
final value, e.g., 1, 2, 3, at the end. Please answer the question requiring a floating-point number with one decimal
place with two decimal places Please answer the question requiring a Python list as an answer and provide the final
list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end. Please answer the question and provide the correct option letter,
e.g., A, B, C, D, at the end. What is Which Please write out the expression of the formula in the image using LaTeX
format. what is written in the image? what is the number in the image? What color colour shape object is on the left
right side larger smaller bigger of the two bar bars tallest shortest highest lowest value values How many shapes are
there objects in this picture sum numbers shown word above below under Each grid line step stands for unit What are
The answer says text chart first second read Read Count add Add equals of and or to a an it its by with next under
For First Second image image? image. shape? bar? numbers? number? word? picture? left? right? shown? shapes? objects? there?
"""


def prompt_words() -> list[str]:
    """Words of the prompts in order of first appearance, punctuation and digits removed."""
    import re

    words = re.findall(r"[A-Za-z]+", _PROMPT_TEXT)
    return list(dict.fromkeys(words))
