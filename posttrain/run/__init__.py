"""The run folder: what a run writes beside its model, and how it is read afterwards."""

from posttrain.run.claim import check_file_out, check_out, tidy
from posttrain.run.content import content_hash
from posttrain.run.folder import Run, Status
from posttrain.run.record import write_json
from posttrain.run.writer import RunWriter

__all__ = ["Run", "RunWriter", "Status", "check_file_out", "check_out", "content_hash", "tidy", "write_json"]
