"""The test Hub, driven by the real huggingface_hub client."""

import hashlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hub_client import client, finished, hub, start  # noqa: F401  (fixtures)
from hub_metadata import LICENSES
from hub_server import HubServer


# --- repositories and contents ----------------------------------------------------------------------------------------

def test_a_repository_from_its_creation_to_its_end(hub, client):
    said = client("""
        said["url"] = str(api.create_repo("me/x", private=True))
        said["again"] = refusal(api.create_repo, "me/x")
        api.create_repo("me/x", exist_ok=True)
        said["foreign"] = refusal(api.create_repo, "she/x", exist_ok=True)
        said["read in"] = refusal(api.create_repo, "bigco/x")
        api.update_repo_settings("me/x", private=False)
        first = api.create_commit("me/x", [Add("README.md", b"---\\nlicense: mit\\n---\\n"), Add("model.safetensors", b"first weights"),
                                           Add("figures/curve.png", b"\\x89PNG\\r\\n\\0"), Add("empty.bin", b"")], commit_message="First")
        api.upload_file(path_or_fileobj=b"second weights", path_in_repo="model.safetensors", repo_id="me/x", commit_message="Second")
        api.create_tag("me/x", tag="v1", revision=first.oid)
        api.create_branch("me/x", branch="next", revision="v1")
        api.create_commit("me/x", [Delete("figures/"), Add("new.txt", b"new")], commit_message="Third", revision="next")
        refs = api.list_repo_refs("me/x")
        said["refs"] = [[ref.name, ref.target_commit == first.oid] for ref in (*refs.branches, *refs.tags)]
        said["files"] = [api.list_repo_files("me/x", revision=revision) for revision in ("main", "next")]
        said["weights"] = [text(hf_hub_download("me/x", "model.safetensors", revision=revision)) for revision in (None, "v1", first.oid[:8])]
        said["snapshot"] = sorted(os.listdir(snapshot_download("me/x", revision="next")))
        info = api.model_info("me/x", files_metadata=True)
        said["info"] = [info.sha == first.oid, info.private, info.card_data.license, info.last_modified > info.created_at]
        said["blobs"] = {file.rfilename: [file.size, file.lfs and file.lfs.sha256] for file in info.siblings}
        said["paths"] = [[item.path, getattr(item, "size", None)] for item in api.get_paths_info("me/x", ["figures", "README.md", "gone"])]
        said["tree"] = [item.path for item in api.list_repo_tree("me/x")]
        said["titles"] = [commit.title for commit in api.list_repo_commits("me/x")]
        metadata_update("me/x", {"tags": ["hfxfer"]})
        said["tags"] = api.model_info("me/x").card_data.tags
        api.delete_file("model.safetensors", "me/x")
        api.delete_tag("me/x", tag="v1")
        api.delete_branch("me/x", branch="next")
        said["left"] = api.list_repo_files("me/x")
        said["exists"] = [api.repo_exists("me/x"), api.file_exists("me/x", "README.md"), api.revision_exists("me/x", "v1")]
        api.create_repo("me/y")
        api.delete_repo("me/y")
        said["after"] = [api.repo_exists("me/y"), refusal(api.delete_repo, "me/y"), refusal(api.delete_repo, "me/y", missing_ok=True)]
    """)
    rights = "You don't have the rights to create a model under the namespace"
    assert said["url"] == f"{hub.endpoint}/me/x"
    assert said["again"] == ["HfHubHTTPError", 409, "You already created this model repo: me/x"]
    assert said["foreign"] == ["HfHubHTTPError", 403, f'{rights} "she"']
    assert said["read in"] == ["HfHubHTTPError", 403, f'{rights} "bigco"']
    assert said["refs"] == [["main", False], ["next", False], ["v1", True]]
    assert said["files"] == [[".gitattributes", "README.md", "empty.bin", "figures/curve.png", "model.safetensors"],
                             [".gitattributes", "README.md", "empty.bin", "model.safetensors", "new.txt"]]
    assert said["weights"] == ["second weights", "first weights", "first weights"]
    assert said["snapshot"] == [".gitattributes", "README.md", "empty.bin", "model.safetensors", "new.txt"]
    assert said["info"] == [False, False, "mit", True]
    assert said["blobs"]["model.safetensors"] == [14, hashlib.sha256(b"second weights").hexdigest()]
    assert said["blobs"]["README.md"] == [21, None]
    assert said["blobs"]["empty.bin"] == [0, None]
    assert said["paths"] == [["figures", None], ["README.md", 21]]
    assert said["tree"] == ["figures", ".gitattributes", "README.md", "empty.bin", "model.safetensors"]
    assert said["titles"] == ["Second", "First", "initial commit"]
    assert said["tags"] == ["hfxfer"]
    assert said["left"] == [".gitattributes", "README.md", "empty.bin", "figures/curve.png"]
    assert said["exists"] == [True, True, False]
    assert said["after"] == [False, ["RepositoryNotFoundError", 404, "Repository not found"], None]
    repo = hub.repo("me/x")
    assert [(commit.title, commit.author) for commit in repo.pushes[:3]] == [("First", "me"), ("Second", "me"), ("Third", "me")]
    assert repo.pushes[1].changed == {"model.safetensors": "modified"}
    assert repo.pushes[2].changed == {"new.txt": "added", "figures/curve.png": "deleted"}
    assert repo.head == repo.pushes[-1].oid and "model.safetensors" not in repo.files()


def test_what_is_large_and_what_is_sent(hub, client):
    """A pattern, 10 MiB, or no text makes a file large; an LFS object goes up once, and without the token."""
    said = client("""
        api.create_repo("me/x")
        contents = {"a.bin": b"text", "b.txt": b"text, too", "c.dat": b"no\\0text", "d.txt": b"left out", ".gitignore": b"d.*\\n"}
        files = lambda: [Add(path, content) for path, content in contents.items()]
        api.create_commit("me/x", files(), commit_message="First")
        said["same"] = api.create_commit("me/x", files()[:3], commit_message="Same").oid == api.model_info("me/x").sha
        api.create_commit("me/x", [Add("copy.bin", b"text")], commit_message="Copied")
        api.create_commit("me/x", [Add("big.txt", b"x" * 10_485_761)], commit_message="Big")
    """)
    assert said["same"] is True
    repo = hub.repo("me/x")
    assert [commit.title for commit in repo.pushes] == ["First", "Copied", "Big"]
    assert {path: file.lfs for path, file in repo.resolve("main").files.items()} == {
        ".gitattributes": False, ".gitignore": False, "a.bin": True, "b.txt": False, "c.dat": True, "copy.bin": True, "big.txt": True}
    assert repo.files()[".gitattributes"].endswith(b"*tfevents* filter=lfs diff=lfs merge=lfs -text\nc.dat filter=lfs diff=lfs merge=lfs "
                                                   b"-text\nbig.txt filter=lfs diff=lfs merge=lfs -text\n")
    puts = hub.asked("/_lfs/*", "PUT")
    assert sorted(request.body[:4] for request in puts) == [b"no\0t", b"text", b"xxxx"]
    assert not any("authorization" in request.headers for request in puts)


def test_a_commit_is_whole_or_not_at_all(hub, client):
    said = client("""
        from huggingface_hub.utils import get_session, hf_raise_for_status
        api.create_repo("me/x")
        old = api.model_info("me/x").sha
        new = api.create_commit("me/x", [Add("a.txt", b"1")], commit_message="One", parent_commit=old).oid
        said["late"] = refusal(api.create_commit, "me/x", [Add("a.txt", b"2")], commit_message="Two", parent_commit=old)
        api.create_commit("me/x", [Add("a.txt", b"2")], commit_message="Two", parent_commit=new[:10])
        said["nothing there"] = refusal(api.create_commit, "me/x", [Add("b.txt", b"2"), Delete("c.txt")], commit_message="Three")
        said["no branch"] = refusal(api.create_commit, "me/x", [Add("b.txt", b"2")], commit_message="Three", revision="gone")

        def commit(*lines):
            header = {"key": "header", "value": {"summary": "Raw", "description": ""}}
            body = b"".join(json.dumps(line).encode() + b"\\n" for line in (header, *lines))
            url = f"{api.endpoint}/api/models/me/x/commit/main"
            hf_raise_for_status(get_session().post(url, content=body, headers=api._build_hf_headers()))

        good = {"key": "file", "value": {"path": "good.txt", "content": "Z29vZA==", "encoding": "base64"}}
        said["dangling"] = refusal(commit, good, {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": "0" * 64, "size": 3}})
        said["card"] = refusal(commit, good, {"key": "file", "value": {"path": "README.md", "content": "---\\nlicense: [no]\\n---\\n"}})
        said["empty"] = refusal(commit)
    """)
    assert said["late"] == ["HfHubHTTPError", 412, "A commit has happened since. Please refresh and try again."]
    assert said["nothing there"][:2] == ["RemoteEntryNotFoundError", 404]
    assert said["no branch"] == ["RevisionNotFoundError", 404, "Invalid rev id: gone"]
    assert said["dangling"] == ["BadRequestError", 400, "Your push was rejected because an LFS pointer pointed to a file that does not exist. "
                                "For instance, this can happen if you used git push --no-verify to push your changes. Offending file: - w.bin"]
    assert said["card"][2] == f'Invalid metadata in README.md: "license[0]" must be one of [{", ".join(LICENSES)}]'
    assert said["empty"] == ["BadRequestError", 400, "No files have been modified"]
    repo = hub.repo("me/x")
    assert [commit.title for commit in repo.pushes] == ["One", "Two"] and sorted(repo.files()) == [".gitattributes", "a.txt"]


def test_data_sets_are_read_under_their_own_address(hub, client):
    hub.add_repo("she/pets", {"README.md": "---\nlicense: mit\n---\n", "data/é.csv": "a,b\n", "train.parquet": b"PAR1\0"}, kind="dataset")
    said = client("""
        said["license"] = api.dataset_info("she/pets").card_data.license
        folder = snapshot_download("she/pets", repo_type="dataset")
        said["files"] = [text(hf_hub_download("she/pets", "data/é.csv", repo_type="dataset")), os.path.exists(folder + "/train.parquet")]
        said["no model"] = refusal(api.model_info, "she/pets")
        said["missing"] = refusal(hf_hub_download, "she/pets", "ü.csv", repo_type="dataset")
    """)
    assert said["license"] == "mit" and said["files"] == ["a,b\n", True]
    assert said["no model"] == ["RepositoryNotFoundError", 404, "Repository not found"]
    assert said["missing"] == ["RemoteEntryNotFoundError", 404, "Entry not found"]


def test_a_long_tree_comes_in_pages(tmp_path):
    with HubServer(tmp_path / "hub", page=2) as hub:
        hub.add_user("me")
        hub.add_repo("me/x", {f"{letter}/{letter}.txt": letter for letter in "abc"})
        said = finished(start(hub, tmp_path, 'said["files"] = api.list_repo_files("me/x")', token=None))
        assert said["files"] == [".gitattributes", "a/a.txt", "b/b.txt", "c/c.txt"]
        assert len(hub.asked("*/tree/main")) == 4


# --- who may what -----------------------------------------------------------------------------------------------------

def test_roles_and_what_is_not_there(hub, client):
    for name, how in {"me/open": {}, "me/hidden": {"private": True}, "she/hidden": {"private": True}, "she/gated": {"gated": "manual"}}.items():
        hub.add_repo(name, {"a.txt": name}, **how)
    tokens = {"read": hub.token("me", "read"), "fine": hub.token("me", "fineGrained", {"me/open": ["repo.write"]}), "bad": "hf_unknown"}
    said = client(f"""
        tokens = {{**{tokens!r}, "write": os.environ["HF_TOKEN"], "none": False}}
        for name, token in tokens.items():
            said[name] = {{
                "who": name == "none" or refusal(api.whoami, token=token) or api.whoami(token=token)["auth"]["accessToken"]["role"],
                "commit": refusal(api.create_commit, "me/open", [Add("b.txt", name.encode())], commit_message=name, token=token),
                "commit there": refusal(api.create_commit, "she/gated", [Add("b.txt", b"")], commit_message=name, token=token),
                "create": refusal(api.create_repo, f"me/{{name}}", token=token),
                "open": refusal(hf_hub_download, "me/open", "a.txt", token=token, cache_dir=name),
                "own": refusal(hf_hub_download, "me/hidden", "a.txt", token=token, cache_dir=name),
                "hidden": refusal(hf_hub_download, "she/hidden", "a.txt", token=token, cache_dir=name),
                "gated": refusal(hf_hub_download, "she/gated", "a.txt", token=token, cache_dir=name),
                "gated info": refusal(api.model_info, "she/gated", token=token),
                "gone": refusal(api.model_info, "me/gone", token=token),
                "may write": refusal(api.auth_check, "me/open", write=True, token=token)}}
        said["orgs"] = [[org["name"], org["roleInOrg"]] for org in api.whoami()["orgs"]]
        said["scoped"] = api.whoami(token=tokens["fine"])["auth"]["accessToken"]["fineGrained"]["scoped"]
        said["kept"] = refusal(api.create_repo, "me/open", exist_ok=True, token=tokens["read"])
        said["revision"] = refusal(hf_hub_download, "me/open", "a.txt", revision="v9")
        said["entry"] = refusal(hf_hub_download, "me/open", "gone.txt")
        said["folder"] = refusal(lambda: list(api.list_repo_tree("me/open", "gone")))
    """)
    not_found = ["RepositoryNotFoundError", 404, "Repository not found"]
    unknown = ["HfHubHTTPError", 401, "Invalid credentials in Authorization header"]
    login = ["RepositoryNotFoundError", 401, "Invalid username or password."]
    pull_request = ["HfHubHTTPError", 403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"]
    write_token = ["HfHubHTTPError", 403, "you must use a write token to upload to a repository"]
    may_not_create = ["HfHubHTTPError", 403, 'You don\'t have the rights to create a model under the namespace "me"']
    listed = f"Access to model she/gated is restricted and you are not in the authorized list. Visit {hub.endpoint}/she/gated to ask for access."
    gated = ["GatedRepoError", 403, listed]
    everybody = {"open": None, "hidden": not_found, "gated": gated, "gated info": None, "gone": not_found, "commit there": pull_request}
    assert said["write"] == {**everybody, "who": "write", "commit": None, "create": None, "own": None, "may write": None}
    assert said["read"] == {**everybody, "who": "read", "commit": write_token, "create": may_not_create, "own": None, "may write": write_token}
    assert said["fine"] == {**everybody, "who": "fineGrained", "commit": None, "create": may_not_create, "own": not_found, "may write": None}
    log_in = "Access to model she/gated is restricted. You must have access to it and be authenticated to access it. Please log in."
    assert said["none"] == {
        "who": True, "commit": login, "commit there": login, "create": ["HfHubHTTPError", 401, login[2]], "open": None,
        "own": login, "hidden": login, "gated info": None, "gone": login,
        "gated": ["GatedRepoError", 401, log_in], "may write": login}
    assert said["bad"].pop("who")[:2] == ["HfHubHTTPError", 401]
    assert all(value == unknown for value in said["bad"].values()), said["bad"]
    assert said["orgs"] == [["acme", "write"], ["bigco", "read"]]
    assert said["scoped"] == [{"entity": {"_id": "me/open", "type": "model", "name": "me/open"}, "permissions": ["repo.write"]}]
    assert said["kept"] is None  # create_repo(exist_ok=True) says nothing about the right to write
    assert said["revision"] == ["RevisionNotFoundError", 404, "Invalid rev id: v9"]
    assert said["entry"] == ["RemoteEntryNotFoundError", 404, "Entry not found"]
    assert said["folder"] == ["RemoteEntryNotFoundError", 404, 'gone does not exist on "main"']
    assert [commit.title for commit in hub.repo("me/open").pushes] == ["Upload files", "fine", "write"]


# --- Spaces ---------------------------------------------------------------------------------------------------

def test_spaces_keep_secrets_and_variables(hub, client):
    said = client("""
        api.create_repo("me/demo", repo_type="space", space_sdk="gradio", space_variables=[{"key": "MODEL", "value": "me/x"}])
        said["before"] = api.get_space_runtime("me/demo").stage
        api.add_space_secret("me/demo", "HF_TOKEN", "the secret", description="read only")
        api.add_space_variable("me/demo", "LIMIT", "5")
        api.delete_space_variable("me/demo", "MODEL")
        card = b"---\\ntitle: Demo\\nsdk: gradio\\nsdk_version: 6.1.0\\napp_file: app.py\\n---\\n"
        api.create_commit("me/demo", [Add("app.py", b"1"), Add("README.md", card)], commit_message="App", repo_type="space")
        said["secrets"] = sorted(api.get_space_secrets("me/demo"))
        said["variables"] = {key: item.value for key, item in api.get_space_variables("me/demo").items()}
        info = api.space_info("me/demo")
        said["info"] = [info.sdk, info.runtime.stage, info.card_data.title]
        bad = [Add("README.md", b"---\\ntitle: x\\n---\\n")]
        said["without sdk"] = refusal(api.create_commit, "me/demo", bad, commit_message="No", repo_type="space")
    """)
    assert said["before"] == "NO_APP_FILE"
    assert said["secrets"] == ["HF_TOKEN"] and said["variables"] == {"LIMIT": "5"}
    assert said["info"] == ["gradio", "RUNNING", "Demo"]
    assert said["without sdk"] == ["ValueError", None, 'Invalid metadata in README.md.\n- "sdk" is required']
    space = hub.repo("me/demo", kind="space")
    assert space.secrets == {"HF_TOKEN": "the secret"} and len(space.pushes) == 1


# --- Xet, other libraries, other processes ------------------------------------------------------------------------------

def test_xet_stores_what_hf_xet_sends(tmp_path):
    pytest.importorskip("hf_xet")
    snippet = """
        import array, random
        draw = random.Random(0)
        weights = array.array("f", (draw.gauss(0, 1) for _ in range(60_000))).tobytes() + b"a tail that repeats " * 2000
        api.create_repo("me/x")
        with open("w.safetensors", "wb") as file:
            file.write(weights)
        files = [Add("model.safetensors", "w.safetensors"), Add("zeros.bin", bytes(300_000)), Add("a.txt", b"a")]
        api.create_commit("me/x", files, commit_message="Xet")
        said["hashes"] = [bool(item.xet_hash) for item in api.get_paths_info("me/x", ["a.txt", "model.safetensors", "zeros.bin"])]
        folder = snapshot_download("me/x")
        with open(folder + "/model.safetensors", "rb") as one, open(folder + "/zeros.bin", "rb") as two:
            said["equal"] = one.read() == weights and two.read() == bytes(300_000)
    """
    with HubServer(tmp_path / "hub", offers_xet=True) as hub:
        hub.add_user("me")
        said = finished(start(hub, tmp_path, snippet))
        assert said["hashes"] == [False, True, True] and said["equal"] is True
        assert not hub.asked("/_lfs/*") and not hub.asked("/_cdn/*") and hub.asked("/_cas/v1/xorbs/*") and hub.asked("/_xorb/*")
        assert not any("hf_" in request.headers.get("authorization", "") for request in hub.asked("/_cas/*") + hub.asked("/_xorb/*"))
        hub.clear()
        plain = 'said["size"] = os.path.getsize(hf_hub_download("me/x", "model.safetensors"))'
        assert finished(start(hub, tmp_path, plain, HF_HUB_DISABLE_XET="1"))["size"] == 280_000
        assert not hub.asked("/_cas/*") and len(hub.asked("/_cdn/*")) == 1


def test_a_client_that_wants_xet_fails_where_there_is_none(hub, client):
    """It does not fall back to LFS: a Hub without Xet needs HF_HUB_DISABLE_XET=1."""
    pytest.importorskip("hf_xet")
    hub.add_repo("me/x")
    said = client("""
        said["push"] = refusal(api.create_commit, "me/x", [Add("w.bin", b"weights")], commit_message="Push")
    """, HF_HUB_DISABLE_XET="0")
    assert said["push"] and hub.repo("me/x").pushes == [] and not hub.asked("/_lfs/*")


def test_transformers_and_timm_load_from_it(hub, client):
    """A tiny network in timm's own layout, pushed by the plain client, then both libraries from an empty cache."""
    said = client("""
        import timm, torch
        from pathlib import Path
        from timm.models import save_for_hf
        from transformers import AutoConfig
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=3).eval()
        save_for_hf(model, "saved", model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
        api.create_repo("me/x")
        api.create_commit("me/x", [Add(path.name, path) for path in sorted(Path("saved").iterdir())], commit_message="Push")
        loaded = timm.create_model("hf-hub:me/x", pretrained=True).eval()
        image = torch.randn(1, 3, 32, 32)
        said["equal"] = torch.equal(model(image), loaded(image))
        said["config"] = type(AutoConfig.from_pretrained("me/x")).__name__
    """)
    assert said["equal"] is True and said["config"] == "TimmWrapperConfig"
    assert sorted(hub.repo("me/x").pushes[0].changed) == ["config.json", "model.safetensors"]
    assert hub.asked("/me/x/resolve/main/config.json", "HEAD") and hub.asked("/_cdn/*")


def test_it_stands_alone_and_is_steered_over_http(tmp_path):
    server = subprocess.Popen([sys.executable, str(Path(__file__).with_name("hub_server.py")), "--folder", str(tmp_path), "--user", "me"],
                              stdout=subprocess.PIPE, text=True)
    try:
        endpoint, token = (server.stdout.readline().strip().split("=")[1] for _ in range(2))

        def ask(path, wanted=None, headers=None):
            data = None if wanted is None else json.dumps(wanted).encode()
            with urllib.request.urlopen(urllib.request.Request(endpoint + path, data, headers or {})) as answer:
                return json.load(answer)

        ask("/_test/user", {"name": "she", "orgs": ["acme"]})
        hers = ask("/_test/token", {"name": "she", "role": "read"})
        ask("/_test/repo", {"repo_id": "she/x", "files": {"a.txt": "hello"}})
        assert [ask("/api/whoami-v2", headers={"Authorization": f"Bearer {value}"})["name"] for value in (token, hers)] == ["me", "she"]
        assert [(commit["title"], commit["changed"]) for commit in ask("/_test/commits?id=she/x")] == [("Upload files", {"a.txt": "added"})]
        ask("/_test/fail", {"path": "/api/models/*", "what": 503, "times": 1})
        with pytest.raises(urllib.error.HTTPError, match="503"):
            ask("/api/models/she/x")
        assert ask("/api/models/she/x")["id"] == "she/x"
        last = ask("/_test/requests")[-2:]
        assert [(request["path"], request["status"]) for request in last] == [("/api/models/she/x", 503), ("/api/models/she/x", 200)]
        ask("/_test/clear", {})
        assert ask("/_test/requests") == []
    finally:
        server.terminate()
        server.wait()
