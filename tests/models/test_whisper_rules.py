"""The rules against transformers' logits processors, and where mlx-whisper's part from them."""

import numpy
import pytest

from tests.models.tiny_whisper import END, FIRST_TIMESTAMP, VOCABULARY, demo_folder
from workbench.models.speech_to_text import Decoding
from workbench.models.whisper_rules import Rules, log_softmax, log_sum
from workbench.models.whisper_tokens import WhisperTokens

T = FIRST_TIMESTAMP
HISTORIES = (
    [],
    [T],
    [T + 20],
    [T, 400],
    [T, 400, 500],
    [T, 400, T + 60],
    [T, 400, T + 60, T + 60],
    [T, 400, T + 60, T + 70],
    [T, 400, T + 60, T + 60, 700],
    [T, 400, T + 60, T + 60, 700, T + 61],
    [T, 400, T + 1500],
    [400],
    [400, 500, T + 3],
)


@pytest.fixture(scope="module")
def tokens():
    pytest.importorskip("tokenizers", reason="needs tokenizers (pip install 'parity-workbench[torch]')")
    return WhisperTokens.from_folder(demo_folder(), VOCABULARY)


def drawn(seed, loud):
    """Logits in which times together are likely (``loud``) or not."""
    found = numpy.random.default_rng(seed).standard_normal((1, VOCABULARY)).astype(numpy.float32) * 3
    found[:, T:] += loud
    return found


@pytest.mark.parametrize("loud", [-8.0, 0.0, 4.0])
@pytest.mark.parametrize("latest", [1.0, None])
def test_the_same_tokens_are_left_as_in_transformers(tokens, loud, latest):
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    settings = type("Settings", (), {"no_timestamps_token_id": T - 1, "eos_token_id": END, "bos_token_id": END})()
    settings.max_initial_timestamp_index = None if latest is None else round(latest / 0.02)
    decoding = Decoding(timestamps=True, max_initial_timestamp=latest, suppress_tokens="default")
    rules = Rules.of(tokens, decoding)
    suppress = process.SuppressTokensLogitsProcessor(sorted({*tokens.non_speech, *tokens.never_written}), device="cpu")
    blank = process.SuppressTokensAtBeginLogitsProcessor([*tokens.pieces(" "), END], 3, device="cpu")
    grammar = process.WhisperTimeStampLogitsProcessor(settings, begin_index=3)
    for seed, history in enumerate(HISTORIES):
        given = drawn(seed, loud)
        ids = torch.tensor([[50258, 50259, 50359, *history]])
        theirs = torch.from_numpy(given.copy())
        for each in (suppress, blank, grammar):
            theirs = each(ids, theirs)
        ours = rules.apply(given.copy(), [history])
        assert numpy.array_equal(ours, theirs.numpy()), history


def test_without_timestamps_only_suppression_is_left(tokens):
    rules = Rules.of(tokens, Decoding())
    first, later = rules.apply(drawn(0, 0.0), [[]])[0], rules.apply(drawn(0, 0.0), [[400]])[0]
    begin = {*tokens.pieces(" "), END}
    always = {*tokens.non_speech, *tokens.never_written}
    assert set(numpy.flatnonzero(numpy.isinf(first))) == always | begin
    assert set(numpy.flatnonzero(numpy.isinf(later))) == always


def test_suppression_can_be_replaced_but_input_tokens_are_never_written(tokens):
    rules = Rules.of(tokens, Decoding(suppress_tokens=(17, 18), suppress_blank=False))
    found = rules.apply(drawn(0, 0.0), [[]])[0]
    assert set(numpy.flatnonzero(numpy.isinf(found))) == {17, 18, *tokens.never_written}


def test_rows_have_their_own_history(tokens):
    rules = Rules.of(tokens, Decoding(timestamps=True))
    rows = [list(each) for each in HISTORIES]
    given = numpy.concatenate([drawn(seed, 0.0) for seed in range(len(rows))])
    together = rules.apply(given.copy(), rows)
    for row, history in enumerate(rows):
        assert numpy.array_equal(together[row], rules.apply(given[row : row + 1].copy(), [history])[0])


def test_times_never_go_back_here_and_may_in_mlx_whisper(tokens):
    """mlx-whisper takes the last time's place in the text for the time itself, so its rule never holds anything back."""
    decoding = pytest.importorskip("mlx_whisper.decoding", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")
    from mlx import core
    from mlx_whisper.tokenizer import get_tokenizer

    theirs = decoding.ApplyTimestampRules(get_tokenizer(True, language="en", task="transcribe"), 0, None)
    history = [T, 400, T + 60, T + 60, 700]
    given = drawn(0, 8.0)  # a time comes next
    ours = Rules.of(tokens, Decoding(timestamps=True, suppress_tokens=())).apply(given.copy(), [history])[0]
    left = numpy.asarray(theirs.apply(core.array(given), core.array([history])))[0]
    assert numpy.isinf(ours[T : T + 61]).all() and numpy.isfinite(ours[T + 61 :]).all()
    assert numpy.isfinite(left[T : T + 61]).all()


def test_a_suppressed_token_does_not_outweigh_the_times_here_and_does_in_mlx_whisper(tokens):
    decoding = pytest.importorskip("mlx_whisper.decoding", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")
    from mlx import core
    from mlx_whisper.tokenizer import get_tokenizer

    history = [T, 400]
    given = numpy.full((1, VOCABULARY), -5.0, dtype=numpy.float32)
    given[0, T - 1] = 9.0  # <|notimestamps|>, which must not be written here
    given[0, T:] = 0.0  # together e^7.3
    ours = Rules.of(tokens, Decoding(timestamps=True, suppress_tokens=())).apply(given.copy(), [history])[0]
    theirs = decoding.ApplyTimestampRules(get_tokenizer(True, language="en", task="transcribe"), 0, None)
    left = numpy.asarray(theirs.apply(core.array(given), core.array([history])))[0]
    assert numpy.isinf(ours[:T]).all()
    assert numpy.isfinite(left[: T - 1]).all()


def test_softmax_is_scipys():
    special = pytest.importorskip("scipy.special")
    rows = numpy.random.default_rng(0).standard_normal((3, 1000)).astype(numpy.float32) * 20
    rows[:, 5] = -numpy.inf
    assert numpy.allclose(log_softmax(rows), special.log_softmax(rows.astype(numpy.float64), axis=-1), atol=1e-5)
    assert log_sum(rows[0]) == pytest.approx(special.logsumexp(rows[0].astype(numpy.float64)), abs=1e-5)


def test_logits_that_are_no_numbers_are_an_error_and_no_text():
    """Half precision that overflows, and damaged weights: the largest of NaN is the first token, which is an exclamation mark."""
    from workbench.errors import ItemError
    from workbench.models.whisper_rules import log_softmax

    logits = numpy.zeros((2, 5), dtype=numpy.float32)
    logits[1, 3] = numpy.nan
    with pytest.raises(ItemError, match="computed no numbers") as caught:
        log_softmax(logits)
    assert caught.value.reason == "model" and "float32" in caught.value.fix
    logits[1, 3] = -numpy.inf
    assert numpy.isfinite(log_softmax(logits)[0]).all()
