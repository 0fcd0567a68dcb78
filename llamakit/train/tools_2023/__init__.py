"""The training tools of 2023, `finetune` and `train-text-from-scratch` of llama.cpp: their files, samples and flags."""
