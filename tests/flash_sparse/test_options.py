"""What backends take: the operators' schemas name the options in their order, and every place agrees with it."""

import inspect

import pytest
import torch

import flash_sparse  # noqa: F401 (defines the operators)
from flash_sparse.backends import reference
from flash_sparse.backends.options import Options


@pytest.mark.parametrize(
    ("name", "before", "behind"),
    [
        ("forward", ["query", "key", "value"], []),
        ("backward", ["grad_output", "grad_logsumexp", "query", "key", "value", "output", "logsumexp"], ["wanted"]),
    ],
)
def test_schemas_name_the_options_in_their_order(name, before, behind):
    schema = getattr(torch.ops.flash_sparse, name).default._schema
    assert [argument.name for argument in schema.arguments] == [*before, *Options._fields, *behind]


def test_no_backend_names_an_option_of_its_own():
    from flash_sparse.backends.cpu import launch as cpu

    functions = [reference.attention, reference.attention_varlen, cpu.forward, cpu.backward, cpu.make_problem]
    try:
        from flash_sparse.backends.triton import launch as triton
    except ImportError:
        pass
    else:
        functions += [triton.forward, triton.backward, triton.launch]
    for function in functions:
        named = set(inspect.signature(function).parameters)
        assert "options" in named
        assert not named & set(Options._fields), function


def test_the_layout_by_rows_and_by_columns():
    options = Options(*Options._fields)
    assert options.rows == ("row_offsets", "row_blocks", "row_order")
    assert options.columns == ("column_offsets", "column_blocks", "column_order")
