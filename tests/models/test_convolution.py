"""The convolution against the stock one, and what the compiler makes of it."""

import functools
import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxfed as jf
from jaxfed.models import _bilinear
from tests.models import problems

LAYOUTS = {
    1: ("NWC", "WIO", "NWC"),
    2: ("NHWC", "HWIO", "NHWC"),
    3: ("NDHWC", "DHWIO", "NDHWC"),
}
EDGES = st.integers(-1, 3)
STOCK = jax.lax.conv_general_dilated
OURS = jf.models.conv_general_dilated


def layer(convolution, axes, **options):
    return lambda kernel, x: convolution(
        x, kernel, dimension_numbers=LAYOUTS[axes], **options
    )


@pytest.mark.parametrize(
    ("axes", "window", "options"),
    [
        (1, (3,), {"window_strides": (2,), "padding": "SAME"}),
        (2, (3, 3), {"window_strides": (1, 1), "padding": [(2, 0), (1, 3)]}),
        (
            2,
            (2, 2),
            {"window_strides": (1, 2), "padding": "SAME", "rhs_dilation": (2, 3)},
        ),
        (3, (2, 1, 2), {"window_strides": (1, 2, 1), "padding": "VALID"}),
    ],
)
def test_equals_the_stock_operation_in_every_setting(axes, window, options):
    rows = problems.normal((4, *(7, 6, 5)[:axes], 3))
    kernel = problems.normal((*window, 3, 4), seed=1) / 4
    ours, stock = (
        problems.settings(layer(convolution, axes, **options), kernel, rows)
        for convolution in (OURS, STOCK)
    )
    for name in stock:
        problems.assert_close(ours[name], stock[name])


@settings(max_examples=12)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(
        st.sampled_from(["SAME", "VALID", "SAME_LOWER"]),
        st.lists(st.tuples(EDGES, EDGES), min_size=2, max_size=2),
    ),
    images=st.integers(0, 3),
    channels=st.integers(1, 2),
)
def test_equals_the_stock_operation_for_any_geometry(
    size, window, strides, dilation, padding, images, channels
):
    x = problems.normal((images, *size, channels))
    kernel = problems.normal((*window, channels, 2), seed=1)
    options = {
        "window_strides": strides,
        "padding": padding,
        "rhs_dilation": dilation,
    }

    def outcome(convolution):
        loss = problems.scalar(layer(convolution, 2, **options))
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(kernel, x)

    problems.assert_close(outcome(OURS), outcome(STOCK))


@pytest.mark.parametrize("images", [1, 7, 12])
def test_more_images_than_one_block_holds(images):
    x = problems.normal((images, 40, 40, 24)) / 16
    kernel = problems.normal((3, 3, 24, 2), seed=1) / 16
    options = {"window_strides": (1, 1), "padding": "VALID"}
    gradients = [
        jax.jit(jax.grad(problems.scalar(layer(f, 2, **options)), (0, 1)))(kernel, x)
        for f in (OURS, STOCK)
    ]
    problems.assert_close(*gradients)


def test_second_derivatives_equal_the_stock_ones():
    x, kernel = problems.normal((2, 5, 5, 2)), problems.normal((3, 3, 2, 2), seed=1)
    options = {"window_strides": (2, 1), "padding": "SAME"}
    found = []
    for convolution in (OURS, STOCK):
        loss = problems.scalar(layer(convolution, 2, **options))
        slope = jax.grad(loss, (0, 1))

        def squared(kernel, x, slope=slope):
            return sum(jnp.sum(a * a) for a in slope(kernel, x))

        found.append(jax.jit(jax.grad(squared, (0, 1)))(kernel, x))
    problems.assert_close(*found)


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 2},
        {"lhs_dilation": (2, 1)},
        {"preferred_element_type": jnp.float64},
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
        {"dimension_numbers": None},
        {"dimension_numbers": ("NHWC", "HWIO", "NCHW")},
    ],
)
def test_what_is_not_fast_is_the_stock_operation(options):
    x, kernel = problems.normal((4, 4, 4, 4)), problems.normal((4, 4, 4, 4), seed=1)
    if "feature_group_count" in options:
        kernel = kernel[:, :, :2]
    options = {"dimension_numbers": LAYOUTS[2]} | options
    padding = [(1, 2), (0, 0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # float64 is float32 unless asked for
        programs = [
            str(
                jax.make_jaxpr(lambda a, w, f=f: f(a, w, (1, 1), padding, **options))(
                    x, kernel
                )
            )
            for f in (OURS, STOCK)
        ]
    assert programs[0] == programs[1]
    assert "conv_general_dilated" in programs[0]


def test_half_precision_sums_in_single_precision():
    x = problems.normal((16, 12, 12, 24)).astype(jnp.bfloat16)
    kernel = problems.normal((3, 3, 24, 4), seed=1).astype(jnp.bfloat16)
    ones = jnp.ones((16, 10, 10, 4), jnp.bfloat16)
    options = {"window_strides": (1, 1), "padding": "VALID"}

    def weight_gradient(convolution, x, kernel, ones):
        return jax.vjp(lambda w: layer(convolution, 2, **options)(w, x), kernel)[1](
            ones
        )

    ours = weight_gradient(OURS, x, kernel, ones)[0]
    assert ours.dtype == jnp.bfloat16
    exact = weight_gradient(STOCK, *(a.astype(jnp.float32) for a in (x, kernel, ones)))[
        0
    ]
    assert jnp.max(jnp.abs(ours.astype(jnp.float32) - exact)) < 2**-8 * jnp.max(
        jnp.abs(exact)
    )


def test_linen_and_nnx_take_it():
    x = problems.normal((2, 3, 6, 6, 3))  # two axes of batch
    stock = nn.Conv(4, (3, 3), strides=2)
    ours = nn.Conv(4, (3, 3), strides=2, conv_general_dilated=OURS)
    variables = stock.init(jax.random.key(0), x)
    problems.assert_close(ours.apply(variables, x), stock.apply(variables, x))
    layers = [
        nnx.Conv(3, 4, (3, 3), conv_general_dilated=f, rngs=nnx.Rngs(0))
        for f in (OURS, STOCK)
    ]
    assert "jaxfed_convolution" in str(jax.make_jaxpr(layers[0])(x))
    problems.assert_close(*[layer(x) for layer in layers])


def weight_gradient_convolutions(convolution):
    """The convolutions in a compiled loop of steps that are not the first pass."""
    module = jf.models.CNN(classes=3, convolution=convolution)
    x = problems.normal((2, 8, 8, 1))
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), x)["params"])

    def by_row(params, x):
        outputs = jax.vmap(lambda row: module.apply({"params": params}, row[None]))(x)
        return jnp.sum(outputs**2)

    def train(params, x):
        def step(_, params):
            gradient = jax.grad(by_row)(params, x)
            return jax.tree.map(lambda a, g: a - 0.1 * g, params, gradient)

        return jax.lax.fori_loop(0, 5, step, params)

    text = jax.jit(train).lower(params, x).compile().as_text()
    labels = re.findall(r"dim_labels=(\S+?)[,\s]", text)
    return [label for label in labels if label != "b01f_01io->b01f"], labels


def test_a_compiled_training_loop_holds_no_weight_gradient_convolution():
    ours, every = weight_gradient_convolutions(OURS)
    assert ours == []
    assert len(every) == 2  # the first pass
    stock, _ = weight_gradient_convolutions(STOCK)
    assert "f01b_i01o->01bf" in stock


def test_on_other_devices_the_maps_are_the_stock_ones():
    inputs, outputs = problems.normal((2, 6, 5, 7, 3)), problems.normal((2, 6, 2, 2, 4))
    kernels = problems.normal((2, 2, 3, 3, 4), seed=1)
    geometry = _bilinear.Geometry((5, 7), (2, 3), (2, 2), (1, 2), None)
    for name, operands in {
        "input_gradient": (outputs, kernels),
        "weight_gradient": (inputs, outputs),
    }.items():
        stock, blocked = (
            functools.partial(getattr(_bilinear, f"_{kind}_{name}"), geometry=geometry)
            for kind in ("stock", "blocked")
        )
        problems.assert_close(jax.jit(blocked)(*operands), jax.jit(stock)(*operands))

    def gradient(inputs, kernel):
        loss = problems.scalar(layer(OURS, 2, window_strides=(1, 1), padding="SAME"))
        return jax.grad(loss, (0, 1))(kernel, inputs)

    traced = jax.jit(gradient).trace(inputs[0], kernels[0])
    convolutions = {
        platform: traced.lower(lowering_platforms=(platform,))
        .as_text()
        .count("stablehlo.convolution")
        for platform in ("cpu", "cuda")
    }
    assert convolutions == {"cpu": 1, "cuda": 3}


def test_inside_shard_map():
    mesh = jax.make_mesh((1,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    x, kernel = problems.normal((2, 5, 5, 2)), problems.normal((3, 3, 2, 2), seed=1)
    options = {"window_strides": (1, 1), "padding": "SAME"}

    def summed(convolution):
        loss = problems.scalar(layer(convolution, 2, **options))

        def local(kernel, x):
            return jax.lax.psum(loss(kernel, x), "clients")

        spread = jax.shard_map(
            local, mesh=mesh, in_specs=(spec(), spec("clients")), out_specs=spec()
        )
        return jax.jit(jax.value_and_grad(spread, (0, 1)))(kernel, x)

    problems.assert_close(summed(OURS), summed(STOCK))
