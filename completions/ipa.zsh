#compdef ipa

_ipa_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _IPA_COMPLETE=complete_zsh ipa)
}

compdef _ipa_completion ipa
