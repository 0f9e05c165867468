"""`ipa cache`: list, verify, remove and share compiled graphs; torch is never imported."""

from ipa_cli.commands.base import App
from ipa_cli.commands.cache import listing, remote, removal, sharing, trust

app = App(help="List, verify, remove and share compiled graphs.")
app.command("ls", example="ipa cache ls --sort size")(listing.list_graphs)
app.command("clear", example="ipa cache clear --stale --dry-run")(removal.clear)
app.command("dir", example="ipa cache dir")(listing.show_folder)
app.command("verify", example="ipa cache verify")(listing.verify)
app.command("export", example="ipa cache export graphs.tar")(sharing.export_graphs)
app.command("import", example="ipa cache import graphs.tar")(sharing.import_graphs)
app.command("push", example="ipa cache push s3://bucket/graphs")(remote.push)
app.command("pull", example="ipa cache pull s3://bucket/graphs --dry-run")(remote.pull)
app.command("keygen", example="ipa cache keygen")(trust.keygen)
app.command("sign", example="ipa cache sign 3f9a10c2")(trust.sign_graphs)
app.command("trust", example="ipa cache trust 3f9a10c2")(trust.trust_graphs)
app.command("untrust", example="ipa cache untrust ci")(trust.untrust)
app.command("keys", example="ipa cache keys")(trust.list_keys)
