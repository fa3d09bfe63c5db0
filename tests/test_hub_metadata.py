"""What the test Hub's validator refuses, in the words of the real one."""

import json

import pytest
from hub_metadata import EMPTY, LICENSES, PIPELINE_TAGS, RELATIONS, check

INDEX = {"name": "x", "results": [{"task": {"type": "t"}, "dataset": {"type": "d", "name": "D"}, "metrics": [{"type": "accuracy", "value": 1}]}]}


@pytest.mark.parametrize("metadata, wanted", [
    ({"license": "mit", "datasets": ["a/b", "c"], "base_model": "timm/x.y", "language": "en", "model-index": [INDEX]}, []),
    ({"license": "my own"}, [f'"license" must be one of [{", ".join(LICENSES)}]']),
    ({"datasets": ["/home/me/pets"]}, ['"datasets[0]" with value "/home/me/pets" is not valid. If possible, use a dataset id from '
                                       "https://hf.co/datasets."]),
    ({"base_model": "./runs/x"}, ['"base_model" with value "./runs/x" is not valid. Use a model id from https://hf.co/models.']),
    ({"base_model": ["a/b", 3]}, ['"base_model[1]" must be a string']),
    ({"base_model_relation": "child"}, [f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]']),
    ({"tags": "one", "metrics": "accuracy"}, ['"tags" must be an array', '"metrics" must be an array']),
    ({"language": "EN"}, ['"language" must only contain lowercase characters']),
    ({"language": ["en", "english"]}, ['"language[1]" with value "english" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code (two/three '
                                       'letters), or a special value like "code", "multilingual". If you want to use BCP-47 identifiers, you can '
                                       "specify them in language_bcp47."]),
    ({"pipeline_tag": 3, "widget": {"text": "x"}}, ['"pipeline_tag" must be a string', '"widget" must be an array']),
    ({"model-index": {}}, ['"model-index" must be an array']),
    ({"model-index": [{"name": "x"}]}, ['"model-index[0].results" is required']),
    ({"model-index": [{**INDEX, "name": ""}]}, ['"model-index[0].name" is not allowed to be empty']),
    ({"model-index": [{"name": "x", "results": [{"task": {"type": "t"}, "metrics": [{"type": "f1"}]}]}]},
     ['"model-index[0].results[0].dataset" is required', '"model-index[0].results[0].metrics[0].value" is required']),
    ({"model-index": [{"name": "x", "results": [{**INDEX["results"][0], "dataset": {"name": "D", "config": 1}}]}]},
     ['"model-index[0].results[0].dataset.type" is required', '"model-index[0].results[0].dataset.config" must be a string']),
])
def test_what_the_validator_refuses_in_a_model_card(metadata, wanted):
    assert check(f"---\n{json.dumps(metadata)}\n---\n# Text\n", "model") == (wanted, [])


def test_what_the_validator_only_warns_of_and_how_it_reads_yaml():
    assert check("# No metadata", "model") == ([], [EMPTY.format("model")])
    assert check("---\npipeline_tag: magic\n---\n", "model") == ([], [
        f'The pipeline tag "magic" is not in the official list: {", ".join(PIPELINE_TAGS)}'])
    assert check("---\nlanguage: no\n---\n", "model") == ([], [])  # Norwegian, to a reader of YAML 1.2
    assert check("---\nlicense: mit\nlicense: bsd\n---\n", "model") == (["Invalid YAML in README.md: duplicated mapping key (2:1)"], [])
    assert check("---\n- a\n---\n", "model") == (['"value" must be of type object'], [])
    assert check("---\nx: !!python/tuple [1]\n---\n", "model")[0][0].startswith("Invalid YAML in README.md: ")
    assert check(f"---\nsdk: shiny\ncolorTo: black\nshort_description: {'x' * 61}\n---\n", "space") == ([
        '"sdk" must be one of [gradio, docker, static, streamlit]',
        '"colorTo" must be one of [red, yellow, green, blue, indigo, purple, pink, gray]',
        '"short_description" length must be less than or equal to 60 characters long'], [])
