"""The tabs of the demo: in each file pure functions first, the thin shell of gradio last."""
