"""The command line in this process."""

from triclip.command import main


def run(*arguments):
    return main([str(argument) for argument in arguments])


def failing(capsys, *arguments):
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("triclip: ") and "Traceback" not in err
    return err
