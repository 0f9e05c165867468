import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "completions"
SCRIPTS = {"bash": "ipa.bash", "zsh": "ipa.zsh", "fish": "ipa.fish", "powershell": "ipa.ps1"}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_is_what_the_command_prints(ipa_process, shell):
    # The variable makes Typer take the shell as a value instead of guessing it.
    ran = ipa_process("--show-completion", shell, environ={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert ran.exit_code == 0, ran.stderr
    assert (FOLDER / SCRIPTS[shell]).read_text(encoding="utf-8") == ran.stdout, "run completions/generate"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ipa gen", {"generate"}),
        ("ipa ", {"generate", "config", "cache"}),
        ("ipa config ", {"show", "path"}),
        ("ipa generate --gui", {"--guidance-scale"}),
        ("ipa generate --siz", {"--size"}),
        ("ipa sweep-scale --e", {"--embeds"}),
        ("ipa generate --ip-mode s", {"style", "style-layout"}),
        ("ipa sweep-scale --scheduler euler", {"euler", "euler-a"}),
        ("ipa generate --sampler dd", {"ddim", "ddpm"}),
        ("ipa generate --schedule k", {"karras"}),
        ("ipa generate --preset l", {"lcm", "lightning"}),
        ("ipa generate --preset f", {"fast", "few-step"}),
        ("ipa compile --backend in", {"inductor"}),
        ("ipa generate --model s", {"sdxl", "sd15"}),
        ("ipa compile --size 10", {"1024x1024"}),
        ("ipa bench --backends eager,in", {"eager,inductor"}),
        ("ipa generate --scheduler = d", {"ddim", "dpm++"}),  # bash takes --scheduler=d apart
        ("ipa generate --scheduler =", {"ddim", "euler"}),
        ("ipa config set offload m", {"model"}),
        ("ipa config set sampler dd", {"ddim", "ddpm"}),
        ("ipa config set vae-tiling ", {"true", "false"}),
        ("ipa config unset off", {"offload"}),
        ("ipa cache verify 01", {"01234567"}),
        ("ipa cache clear --backend in", {"inductor"}),
    ],
)
def test_a_tab_in_bash_offers_what_fits(world, line, expected):
    (world.home / f".cache/ipa/graphs-v1/inductor/cpu/64x64-b1-{'0123456789abcdef'}").mkdir(parents=True)
    bash = shutil.which("bash")
    ipa = Path(sys.executable).with_name("ipa")
    if bash is None or not ipa.exists():
        pytest.skip("needs bash and an installed ipa")
    code = f"""
        PATH={ipa.parent}:$PATH
        source {FOLDER / "ipa.bash"}
        COMP_LINE={line!r}
        COMP_WORDS=({line}{"''" if line.endswith(" ") else ""})
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _ipa_completion ipa
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([bash, "-c", code], capture_output=True, text=True, env=world.environ, check=True)
    assert expected <= set(done.stdout.split()), done
    typed = line.split()[-1].strip("=").rpartition(",")[2] if not line.endswith((" ", "=")) else ""
    assert all(word.rpartition(",")[2].startswith(typed) for word in done.stdout.split())
