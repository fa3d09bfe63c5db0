"""A model that was fine-tuned with hfxfer, to try in the browser. Which one, says the variable HFXFER_MODEL."""

import os

import gradio as gr

import hfxfer

model = hfxfer.load(os.environ["HFXFER_MODEL"], revision=os.environ.get("HFXFER_REVISION"))
given = gr.Image(type="pil", label="Picture") if model.predictor.task.name == "image-classification" else gr.Textbox(label="Text")
demo = gr.Interface(lambda value: model.predict(value)[0], given, gr.JSON(label="Prediction"), title=os.environ["HFXFER_MODEL"], api_name="predict")

if __name__ == "__main__":
    demo.launch()
