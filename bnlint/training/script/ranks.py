"""Ranks: which expressions are the number of processes or devices, which only the launcher knows."""

from __future__ import annotations

import ast
import re

from bnlint.source.definitions import last_name

# Functions and attributes that return it.
COUNTS = re.compile(
    r"(.*\.)?(get_world_size|device_count|get_num_gpus|world_size|num_processes|hvd\.size|horovod\.torch\.size"
    r"|comm\.get_world_size)"
)
_VARIABLES = frozenset(("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "LOCAL_WORLD_SIZE"))
# Names of it, and of what a launcher sets besides.
NAMES = re.compile(r"(world_?size|n_?gpus?(_per_node)?|num_gpus|nprocs|num_(replicas|devices|processes))", re.I)
SET_BY_LAUNCHER = re.compile(
    r"(world_?size|(local_?|global_?|node_?)?rank|distributed|dist|gpu|n_?gpus?|ngpus_per_node|num_gpus|nprocs)", re.I
)


def is_environment_variable(node: ast.expr) -> bool:
    """`os.environ["WORLD_SIZE"]`, `os.environ.get("WORLD_SIZE", 1)`, `os.getenv("WORLD_SIZE")`."""
    match node:
        case ast.Subscript(value=owner, slice=ast.Constant(value=str() as key)):
            return last_name(owner) == "environ" and key in _VARIABLES
        case ast.Call(func=ast.Attribute(attr="get", value=owner), args=[ast.Constant(value=str() as key), *_]):
            return last_name(owner) == "environ" and key in _VARIABLES
        case ast.Call(func=function, args=[ast.Constant(value=str() as key), *_]):
            return last_name(function) == "getenv" and key in _VARIABLES
    return False
