from ipa_cli.app import main

main()
