"""The training network's short cuts are exact where they claim to be, and a few steps learn."""

import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mlx_whisper")

from workbench.demo.recogniser import batches, features, folder, tokens, train  # noqa: E402
from workbench.demo.recogniser.corpus import Utterance  # noqa: E402
from workbench.demo.recogniser.network import Network  # noqa: E402

STAGE = batches.Stage("test", 4, 4, quiet_share=0.3)


@pytest.fixture(scope="module")
def utterances():
    """Made-up utterances: every sound is a bump at its own mel band."""
    generator, torch_generator = random.Random(1), torch.Generator().manual_seed(1)
    made = []
    for number in range(12):
        sounds = tuple(generator.randint(1, 6) for _ in range(5))
        mel = -8 + torch.rand(60, 80, generator=torch_generator)
        for place, sound in enumerate(sounds):
            mel[place * 12 : place * 12 + 10, sound * 10 : sound * 10 + 8] = 0.0
        made.append(Utterance(mel.half(), tuple(tokens.encode(f" Call {number}.")), sounds))
    return made


@pytest.fixture(scope="module", autouse=True)
def small_bank():
    """One noise of each kind is enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BANK_OF_EACH", 1)
        yield


@pytest.fixture(scope="module")
def maker(utterances):
    return batches.Maker(utterances, 1)


def text_tokens(utterances):
    return [token for utterance in utterances for token in utterance.text]


@pytest.fixture(scope="module")
def network(utterances):
    return Network(batches.used_tokens(text_tokens(utterances)), 7, seed=2).eval()


def test_drawing_every_silent_position_once_equals_the_full_window(network):
    frames, start = 128, 40
    speech = torch.rand(1, frames, 80, generator=torch.Generator().manual_seed(5)) - 1
    speech[:, :6] = speech[:, -8:] = -1.5
    whole = torch.full((1, 3000, 80), -1.5)
    whole[:, 2 * start : 2 * start + frames] = speech
    others = [place for place in range(1500) if not start <= place < start + frames // 2]
    with torch.no_grad():
        wanted, _ = network.encoder(whole)
        got, bias = network.encoder(speech, torch.tensor([start]), torch.tensor([others]))
    assert bias.abs().max() == 0
    wanted = wanted[:, start : start + frames // 2]
    # The window's two outermost positions see its edge, which drawn silence does not: a small difference everywhere.
    assert (got[:, : frames // 2] - wanted).abs().max() < 0.01 * wanted.abs().max()


def test_the_shared_row_is_the_full_softmax_of_the_published_model(network):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration(WhisperConfig(**folder.config())).eval()
    found = model.load_state_dict(network.published(), strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["proj_out.weight"], [])
    model.tie_weights()
    mel = torch.rand(1, 3000, 80, generator=torch.Generator().manual_seed(6)) - 1
    ids = torch.tensor([[*tokens.PROMPT, *tokens.encode(" Call 3")]])
    with torch.no_grad():
        whole = model(mel.transpose(1, 2), decoder_input_ids=ids).logits.log_softmax(-1)
        memory, bias = network.encoder(mel)
        few = network.logits(network.decoder(network.row[ids], memory, bias)).log_softmax(-1)
    assert torch.allclose(whole[..., network.used], few[..., :-1], atol=2e-4)


def test_a_batch_is_a_function_of_seed_stage_and_step(maker, utterances):
    first, again, other = maker.batch(STAGE, 3), batches.Maker(utterances, 1).batch(STAGE, 3), maker.batch(STAGE, 4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mel"][:, :64], other["mel"][:, :64])


def test_a_window_without_speech_asks_for_the_no_speech_token_and_no_text(maker):
    generator = random.Random(4)
    for _ in range(30):
        ids, labels = maker.tokens_of(maker.quiet(generator, 200), generator)
        start = ids.index(tokens.START_ID)
        assert labels[start] == tokens.NO_SPEECH_ID
        assert labels[-1] == tokens.END_ID
        assert all(token >= tokens.END_ID for token in labels[start:])


def test_times_are_where_the_speech_is(maker, utterances, monkeypatch):
    monkeypatch.setattr(batches, "TIMED_SHARE", 1.0)
    monkeypatch.setattr(batches, "PREVIOUS_SHARE", 0.0)
    item = batches.Item(torch.zeros(300, 80), [(utterances[0], 50), (utterances[1], 200)], start=10)
    _, labels = maker.tokens_of(item, random.Random(1))
    times = [round((token - tokens.TIME_ID) * 0.02, 2) for token in labels if token >= tokens.TIME_ID]
    assert times == [0.7, 1.3, 2.2, 2.8]


def test_a_few_steps_learn_and_go_on_after_a_stop(maker, utterances, tmp_path):
    stages = (batches.Stage("test", 30, 4), batches.Stage("last", 1, 2, full=True))

    def trainer(network):
        return train.Trainer(network, maker, stages, tmp_path)

    def fresh():
        return Network(batches.used_tokens(text_tokens(utterances)), 7, seed=2)

    whole = trainer(fresh())
    losses = [whole.train_step()["token"] for _ in range(12)]
    assert losses[-1] < losses[0] - 0.5
    whole.save()
    resumed = trainer(fresh())
    assert (resumed.stage, resumed.step) == (0, 12)
    assert resumed.train_step()["token"] == pytest.approx(whole.train_step()["token"], rel=1e-3)
    assert (tmp_path / "stt" / "model.safetensors").is_file()


def test_normalised_mel_power_is_the_librarys_log_mel():
    from transformers import WhisperFeatureExtractor

    wave = torch.randn(16000 * 30, generator=torch.Generator().manual_seed(7)).numpy() * 0.1
    wanted = WhisperFeatureExtractor()(wave, sampling_rate=16000, return_tensors="pt").input_features[0].T
    assert (features.normalise(features.mel_power(wave)) - wanted).abs().max() < 1e-4
