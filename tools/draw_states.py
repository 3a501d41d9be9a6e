"""Draw the state diagrams and the table of docs/protocol.md from `deepio_core.states`.

python tools/draw_states.py            write them between the markers of the page
python tools/draw_states.py --check    exit code 1 if the page does not show what stands in the table
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "protocol.md"

# Works in a clone where nothing is installed, too.
sys.path.insert(0, str(ROOT))

from deepio_core.config import PeerConfig  # noqa: E402
from deepio_core.states import STAGE_TIMERS, STATE_OF, TRANSITIONS, PeerState, Stage, Trigger  # noqa: E402
from deepio_core.timers import Timer  # noqa: E402

SECTION = re.compile(r"(<!-- drawn by tools/draw_states\.py: (\w+) -->\n).*?(?=<!-- end of the drawing -->)", re.DOTALL)

FAREWELLS = frozenset({Trigger.CLOSE, Trigger.SIGNALING_CLOSED})
"""Possible nearly everywhere and always with the same end; drawn, they would hide all else."""


def title(trigger: Trigger) -> str:
    """A trigger in words."""
    return trigger.value.replace("_", " ")


def names(items: list[Trigger]) -> str:
    """Several of them."""
    return ", ".join(title(item) for item in items)


def draw_public_states() -> str:
    """The eight public states as a Mermaid diagram; an arrow names its triggers."""
    arrows: dict[tuple[PeerState, PeerState], list[Trigger]] = {}
    for stage, row in TRANSITIONS.items():
        for trigger, target in row.items():
            ends = STATE_OF[stage], STATE_OF[target]
            if ends[0] is not ends[1] and trigger not in arrows.setdefault(ends, []):
                arrows[ends].append(trigger)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> STARTING"]
    lines += [f"    {old.name} --> {new.name} : {names(triggers)}" for (old, new), triggers in arrows.items()]
    return "\n".join([*lines, "    CLOSED --> [*]", "```"])


def draw_stages() -> str:
    """The stages inside their states as a Mermaid diagram, without what stays or closes."""
    lines = ["```mermaid", "stateDiagram-v2", "    direction TB"]
    for state in PeerState:
        stages = [stage.value for stage in Stage if STATE_OF[stage] is state]
        # A state with one stage is drawn as that stage: Mermaid has one namespace for both.
        if len(stages) > 1:
            lines += [f"    state {state.name} {{", *(f"        {stage}" for stage in stages), "    }"]
    for stage, row in TRANSITIONS.items():
        arrows: dict[Stage, list[Trigger]] = {}
        for trigger, target in row.items():
            if target is not stage and trigger not in FAREWELLS:
                arrows.setdefault(target, []).append(trigger)
        lines += [f"    {stage.value} --> {target.value} : {names(found)}" for target, found in arrows.items()]
    return "\n".join([*lines, "```"])


def draw_table() -> str:
    """Every legal edge, one row for each stage."""
    lines = ["| State | Stage | Timer | Stays on | Goes on |", "| --- | --- | --- | --- | --- |"]
    for stage, row in TRANSITIONS.items():
        stays = names([trigger for trigger, target in row.items() if target is stage])
        moves = "<br>".join(
            f"{title(trigger)} → `{target.value}`" for trigger, target in row.items() if target is not stage
        )
        timer = f"`{STAGE_TIMERS[stage]}`" if stage in STAGE_TIMERS else ""
        lines.append(f"| `{STATE_OF[stage].name}` | `{stage.value}` | {timer} | {stays} | {moves} |")
    return "\n".join(lines)


def draw_timers() -> str:
    """The timers with their defaults and the stages that share one run of them."""
    config = PeerConfig(peer_id="any")
    lines = ["| Timer | Setting | Default | Runs in |", "| --- | --- | --- | --- |"]
    for timer in Timer:
        if timer in {Timer.POLL, Timer.RETRY}:
            continue  # these are of the session, which has its own page
        setting = "reply_timeout" if timer is Timer.LIST else f"{timer}_timeout"
        stages = ", ".join(f"`{stage.value}`" for stage in Stage if STAGE_TIMERS.get(stage) is timer)
        seconds = f"{getattr(config, setting):g} s"
        lines.append(f"| `{timer}` | `{setting}` | {seconds} | {stages or 'any stage, beside its own timer'} |")
    return "\n".join(lines)


DRAWINGS = {"states": draw_public_states, "stages": draw_stages, "table": draw_table, "timers": draw_timers}


def redrawn(page: str) -> str:
    """The page with all its drawings made anew."""
    found = [match[2] for match in SECTION.finditer(page)]
    if sorted(found) != sorted(DRAWINGS):
        sys.exit(f"{PAGE.name} has markers for {found or 'nothing'}, not for {list(DRAWINGS)}")
    return SECTION.sub(lambda match: f"{match[1]}{DRAWINGS[match[2]]()}\n", page)


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    page = PAGE.read_text(encoding="utf-8")
    new = redrawn(page)
    if not arguments:
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        print(f"{PAGE.name} is stale: run python tools/draw_states.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
