"""A model that was fine-tuned with hfxfer, to try in the browser. Which one, says the variable HFXFER_MODEL."""

import os
import sys

if __name__ == "__main__":
    if not os.environ.get("HFXFER_MODEL"):
        sys.exit("HFXFER_MODEL is not set, and it says which model to show: set HFXFER_MODEL=NAME/REPO")
    from hfxfer import demo  # some seconds of imports

    demo.launch([os.environ["HFXFER_MODEL"]], revision=os.environ.get("HFXFER_REVISION"), host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
                port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
