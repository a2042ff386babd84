"""The command lines that make what the app shows, as pages name them; {folder} is a model's."""

TRAIN = "python -m model.train --preset nano --objective {name}"
DOCUMENTS = "python -m emo_viz documents --corpus data/corpus --out assets/documents"
RECORD = (
    "python -m emo_viz record --model assets/checkpoints/{folder} "
    "--documents assets/documents/documents.parquet --out assets/traces/{folder}"
)
CLUSTERS = (
    "python -m emo_viz clusters --model assets/checkpoints/{folder} "
    "--documents assets/documents/documents.parquet --out assets/analysis/clusters-{folder}.npz"
)
MAPS = (
    "python -m emo_viz map --traces assets/traces/emo-nano assets/traces/std-nano "
    "--out assets/analysis/maps.npz"
)
TOKEN_MAP = (
    "python -m emo_viz token-map --models assets/checkpoints/emo-nano assets/checkpoints/std-nano "
    "--documents assets/documents/documents.parquet "
    "--clusters assets/analysis/clusters-emo-nano.npz assets/analysis/clusters-std-nano.npz "
    "--out assets/analysis/token_map.npz"
)
CURVES = (
    "python -m emo_viz curves --models assets/checkpoints/emo-nano assets/checkpoints/std-nano "
    "--documents assets/documents/documents.parquet "
    "--calibration assets/documents/calibration.parquet --out assets/analysis/curves.parquet"
)
CUT = "python -m emo_viz cut --model assets/checkpoints/emo-nano --subset {file} --out {out}"
KERNEL_REPORT = "python -m model.kernels.report --json assets/analysis/kernel_report.json"
KERNEL_CHECK = "python -m model.kernels.check --minutes 9 --out assets/analysis"
