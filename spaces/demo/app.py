"""A model that was fine-tuned with hfxfer, to try in the browser. Which one, says the variable HFXFER_MODEL."""

import os

from hfxfer import demo

if __name__ == "__main__":
    demo.launch([os.environ["HFXFER_MODEL"]], revision=os.environ.get("HFXFER_REVISION"), host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
                port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
