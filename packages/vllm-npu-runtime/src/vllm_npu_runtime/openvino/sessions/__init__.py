"""OpenVINO's sessions: paged on a CPU, the static stateful pipeline on an NPU."""
