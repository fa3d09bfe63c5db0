"""The licences that the Hub knows, and what the card of a checkpoint says about its own.

Source of the list: https://huggingface.co/docs/hub/repositories-licenses (its table, with the entries added up to 2026).
"""

from __future__ import annotations

from typing import Any

LICENCES = frozenset("""
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0
    bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1
    lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl open-mdw openmdw-1.0 openrail++ osl-3.0
    postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    grok2-community gemma unknown other
""".split())

LIST_ADDRESS = "https://huggingface.co/docs/hub/repositories-licenses"
USUAL = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "other")
INHERITED = ("license", "license_name", "license_link")
"""What base.json keeps of a checkpoint's card, under these names; names that the card does not have are missing."""


def declared(metadata: dict[str, Any]) -> dict[str, str]:
    """license, license_name and license_link as the metadata of a checkpoint's card has them; only what is there, as text.

    Several licences are one the Hub has no single name for: license is other, license_name their names.
    """
    found = {name: metadata[name] for name in INHERITED if metadata.get(name)}
    several = found.get("license")
    if isinstance(several, list):
        names = [str(name).lower() for name in several]
        found |= {"license": names[0]} if len(names) == 1 else {"license": "other", "license_name": "-or-".join(names)}
    if "license" in found:
        found["license"] = str(found["license"]).lower()
    return {name: str(value) for name, value in found.items()}


def inherited(base: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """The licence that a fine-tuned model takes over from the checkpoint it came from; empty where nobody said one.

    base: what base.json holds. config: of the model; timm keeps its checkpoints' licence in pretrained_cfg.
    """
    found = declared(base)
    of_timm = str((config.get("pretrained_cfg") or {}).get("license") or "").lower()
    # Of a bare weights file timm only knows the network that it fits, not whose weights they are.
    if "license" not in found and of_timm in LICENCES and base.get("source") != "state dict":
        found = {"license": of_timm}
    return {} if found.get("license", "unknown") == "unknown" else found
