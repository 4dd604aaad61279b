"""A signal that comes while a checkpoint is read is no damage of the checkpoint."""

import pytest

from specsar_jax.trained import loading, workdirs
from specsar_jax.trained.run_files import why


@pytest.mark.parametrize("stop", [SystemExit(143), KeyboardInterrupt()])
def test_a_signal_is_no_damage(small_run, monkeypatch, capsys, stop):
    def read(*_):  # as Orbax does
        try:
            raise stop
        except BaseException as error:
            raise Exception("Encountered error while reading array index") from error

    monkeypatch.setattr(workdirs, "_variables", read)
    with pytest.raises(type(stop)):
        loading.load_trained(small_run / "run")
    assert "damaged" not in capsys.readouterr().err


def test_a_save_that_fails_after_a_signal_tells_why():
    try:
        try:
            raise KeyboardInterrupt
        finally:
            raise OSError("no space is left")
    except OSError as error:
        assert why(error) == "no space is left"
