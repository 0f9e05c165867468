from ipa_cli.system.interruption import Interruption


def main() -> None:
    """Run `ipa`. A signal that arrives while the program is still being imported is answered right afterwards."""
    interruption = Interruption()
    interruption.listen(deferred=True)
    from ipa_cli import app  # most of the start-up time

    app.main(interruption)


if __name__ == "__main__":
    main()
