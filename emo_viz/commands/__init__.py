"""The sub-commands of python -m emo_viz: each module here exports one as `command`."""
