"""What huggingface.co's /api/validate-yaml says to a README.md, rule by rule, in its own words where those are known.

Sources: messages in public issues (huggingface/autotrain-advanced#648, ostris/ai-toolkit#260, huggingface/huggingface_hub#1950),
huggingface/hub-docs modelcard.md, spaces-config-reference.md and repositories-licenses.md, huggingface_hub's own tests.
Known and not here: the real lists of languages and of existing repositories; whether an id exists is never asked.
"""

import re

import yaml

LICENSES = """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0
cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl
apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma
unknown other""".split()

PIPELINE_TAGS = """text-classification token-classification table-question-answering question-answering zero-shot-classification
translation summarization feature-extraction text-generation fill-mask sentence-similarity text-to-speech text-to-audio
automatic-speech-recognition audio-to-audio audio-classification audio-text-to-text voice-activity-detection depth-estimation
image-classification object-detection image-segmentation text-to-image image-to-text image-to-image image-to-video
unconditional-image-generation video-classification reinforcement-learning robotics tabular-classification tabular-regression
tabular-to-text table-to-text multiple-choice text-ranking text-retrieval time-series-forecasting text-to-video image-text-to-text
image-text-to-image image-text-to-video visual-question-answering document-question-answering zero-shot-image-classification
graph-ml mask-generation zero-shot-object-detection text-to-3d image-to-3d image-feature-extraction video-text-to-text
keypoint-detection visual-document-retrieval any-to-any video-to-video other""".split()

COLOURS = "red yellow green blue indigo purple pink gray".split()
SDKS = "gradio docker static streamlit".split()
RELATIONS = "adapter merge quantized finetune".split()
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*|code|multilingual|unknown")
EMPTY = "empty or missing yaml metadata in repo card (https://huggingface.co/docs/hub/{}-cards)"


class _HubLoader(yaml.SafeLoader):
    """YAML as js-yaml reads it: `no` and `on` are texts, a key given twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.value[len(keys) - 1 - keys[::-1].index(key)][0].start_mark
                raise yaml.YAMLError(f"duplicated mapping key ({line.line + 1}:{line.column + 1})")
        return super().construct_mapping(node, deep=deep)


_HubLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}


def front_matter(readme: str):
    """What the YAML between the leading `---` lines says; {} without it. Raises yaml.YAMLError."""
    found = re.match(r"\ufeff?---\r?\n(.*?)(^---\s*$)", readme, re.DOTALL | re.MULTILINE)
    return yaml.load(found[1], _HubLoader) or {} if found else {}


def check(readme: str, kind: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) for the README.md of a model, dataset or space."""
    try:
        data = front_matter(readme)
    except yaml.YAMLError as error:
        return [f"Invalid YAML in README.md: {error}"], []
    if not data:
        return [], [EMPTY.format("dataset" if kind == "dataset" else "model")]
    if not isinstance(data, dict):
        return ['"value" must be of type object'], []
    check = _Check(data)
    check.common()
    {"model": check.model, "dataset": check.dataset, "space": check.space}[kind]()
    return check.errors, check.warnings


class _Check:
    def __init__(self, data):
        self.data, self.errors, self.warnings = data, [], []

    def common(self):
        self.one_of("license", LICENSES, several=True)
        self.texts("license_name", "license_link", "thumbnail", several=False)
        self.texts("tags", must_be_list=True)
        for name, value in self.each("language"):
            if not isinstance(value, str):
                self.errors.append(f'"{name}" must be a string')
            elif value != value.lower():
                self.errors.append(f'"{name}" must only contain lowercase characters')
            elif not LANGUAGE.fullmatch(value):
                self.errors.append(f'"{name}" with value "{value}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code (two/three '
                                   'letters), or a special value like "code", "multilingual". If you want to use BCP-47 identifiers, '
                                   "you can specify them in language_bcp47.")

    def model(self):
        self.ids("datasets", "If possible, use a dataset id from https://hf.co/datasets.")
        self.ids("base_model", "Use a model id from https://hf.co/models.")
        self.one_of("base_model_relation", RELATIONS)
        self.texts("library_name", "pipeline_tag", several=False)
        self.texts("metrics", must_be_list=True)
        tag = self.data.get("pipeline_tag")
        if isinstance(tag, str) and tag not in PIPELINE_TAGS:
            self.warnings.append(f'The pipeline tag "{tag}" is not in the official list: {", ".join(PIPELINE_TAGS)}')
        if "widget" in self.data and not isinstance(self.data["widget"], list):
            self.errors.append('"widget" must be an array')
        if "model-index" in self.data:
            self.model_index(self.data["model-index"])

    def dataset(self):
        for key in ("task_categories", "task_ids"):
            self.texts(key, must_be_list=True)
            for _, value in self.each(key):
                if key == "task_categories" and value not in PIPELINE_TAGS:
                    self.warnings.append(f'The {key} "{value}" is not in the official list: {", ".join(PIPELINE_TAGS)}')

    def space(self):
        self.one_of("sdk", SDKS, required=True)
        for key in ("colorFrom", "colorTo"):
            self.one_of(key, COLOURS)
        self.texts("title", "emoji", "sdk_version", "app_file", "short_description", several=False)
        self.ids("models", "Use a model id from https://hf.co/models.")
        self.ids("datasets", "If possible, use a dataset id from https://hf.co/datasets.")
        if len(str(self.data.get("short_description", ""))) > 60:
            self.errors.append('"short_description" length must be less than or equal to 60 characters long')
        if not isinstance(self.data.get("pinned", False), bool):
            self.errors.append('"pinned" must be a boolean')

    def model_index(self, index):
        for name, entry in self.items("model-index", index):
            self.text(f"{name}.name", entry.get("name"))
            for result, value in self.items(f"{name}.results", entry.get("results")):
                self.required(result, value, {"task": ("type",), "dataset": ("type", "name")})
                config = value.get("dataset", {}).get("config", "") if isinstance(value.get("dataset"), dict) else ""
                if not isinstance(config, str):
                    self.errors.append(f'"{result}.dataset.config" must be a string')
                for metric, score in self.items(f"{result}.metrics", value.get("metrics")):
                    self.text(f"{metric}.type", score.get("type"))
                    if score.get("value") is None:
                        self.errors.append(f'"{metric}.value" is required')

    def required(self, name, value, wanted):
        for part, keys in wanted.items():
            if not isinstance(value.get(part), dict):
                self.errors.append(f'"{name}.{part}" ' + ("is required" if part not in value else "must be of type object"))
                continue
            for key in keys:
                self.text(f"{name}.{part}.{key}", value[part].get(key))

    def items(self, name, value):
        """(name, mapping) of each item of a required list of mappings."""
        if not isinstance(value, list):
            self.errors.append(f'"{name}" ' + ("is required" if value is None else "must be an array"))
            return
        for place, item in enumerate(value):
            if isinstance(item, dict):
                yield f"{name}[{place}]", item
            else:
                self.errors.append(f'"{name}[{place}]" must be of type object')

    def text(self, name, value):
        if value is None:
            self.errors.append(f'"{name}" is required')
        elif not isinstance(value, str):
            self.errors.append(f'"{name}" must be a string')
        elif not value:
            self.errors.append(f'"{name}" is not allowed to be empty')

    def each(self, key):
        """(name, value) of a value that may be one or a list of them."""
        value = self.data.get(key)
        if isinstance(value, list):
            return [(f"{key}[{place}]", item) for place, item in enumerate(value)]
        return [(key, value)] if key in self.data else []

    def texts(self, *keys, several=True, must_be_list=False):
        for key in keys:
            if key in self.data and must_be_list and not isinstance(self.data[key], list):
                self.errors.append(f'"{key}" must be an array')
                continue
            values = self.each(key) if several else [(key, self.data[key])] if key in self.data else []
            for name, value in values:
                self.text(name, "" if value is None else value)

    def one_of(self, key, allowed, several=False, required=False):
        if required and key not in self.data:
            self.errors.append(f'"{key}" is required')
        for name, value in self.each(key) if several else [(key, self.data[key])] if key in self.data else []:
            if value not in allowed:
                self.errors.append(f'"{name}" must be one of [{", ".join(allowed)}]')

    def ids(self, key, advice):
        for name, value in self.each(key):
            if not isinstance(value, str):
                self.errors.append(f'"{name}" must be a string')
            elif not REPO_ID.fullmatch(value):
                self.errors.append(f'"{name}" with value "{value}" is not valid. {advice}')
