"""The one ONNX file that is the whole model: written, made faster, taken in, given away.

Start at `export`, which writes the fp32 file of a trained network by way of `graph`. `quantise`
makes an fp16 or int8 file of it, `recalibrated` one of the same weights with another calibration.
`jetson_import` takes in what jetson-inference made (`foreign` reads its ONNX files),
`jetson_export` gives one back.
"""
