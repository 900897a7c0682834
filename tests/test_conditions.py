"""What a model is shown of a picture, and told in numbers: closed forms, to the bit where they are whole numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from inkwash.conditions import (
    ByImage,
    ByText,
    ByVector,
    Conditions,
    Edges,
    Grey,
    LowResolution,
    Masked,
    Paired,
)
from inkwash.conditions.masked import drawn
from inkwash.kinds import from_table, to_table
from inkwash.noise import Philox, Stream

TASKS = (LowResolution(4), Grey(), Edges(), Paired(), Masked())


def noise(n: int, seed: int = 3) -> Philox:
    return Philox(seed, torch.arange(n))


def photos(n: int = 3, side: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, channels), dtype=np.uint8)


def test_the_area_mean_is_rounded_half_up() -> None:
    board = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)[None, :, :, None]
    assert (LowResolution(2).small(board) == 128).all()  # 127.5
    assert (LowResolution(4).show(board) == 128).all()
    u = photos()
    means = u.reshape(3, 4, 4, 4, 4, 3).astype(np.int64).sum((2, 4))
    assert (LowResolution(4).small(u) == (means + 8) // 16).all()
    thirds = u[:, :9, :12].reshape(3, 3, 3, 4, 3, 3).mean((2, 4))
    assert (LowResolution(3).small(u[:, :9, :12]) == np.floor(thirds + 0.5)).all()


def test_enlarging_lies_on_the_line_between_two_pixels() -> None:
    """Pixels 0 and 80, four times as large: centres lie 0.5 and 1.5, so the samples at 0.125 + k/4 rise by 20."""
    row = np.array([0, 80], np.uint8).reshape(1, 1, 2, 1)
    big = LowResolution(4).enlarged(row)
    assert big.shape == (1, 4, 8, 1)
    assert big[0, :, :, 0].tolist() == [[0, 0, 10, 30, 50, 70, 80, 80]] * 4
    assert LowResolution(3).enlarged(row)[0, 0, :, 0].tolist() == [0, 0, 27, 53, 80, 80]  # thirds of 80, rounded
    column = LowResolution(4).enlarged(row.transpose(0, 2, 1, 3))
    assert (column[0, :, 0, 0] == big[0, 0, :, 0]).all()


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_enlarging_agrees_with_torchs(factor: int) -> None:
    small = photos(2, 6)
    x = torch.from_numpy(small).double().permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    ours = torch.from_numpy(LowResolution(factor).enlarged(small)).permute(0, 3, 1, 2)
    assert (ours - theirs).abs().max() <= 0.5 + 1e-9


def test_what_is_enlarged_and_made_small_again_keeps_a_linear_ramp() -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 10, dtype=np.uint8)[None, None, :, None], (1, 24, 24, 1))
    small = LowResolution(4).small(ramp)
    assert small[0, 0, :, 0].tolist() == [15, 55, 95, 135, 175, 215]
    assert LowResolution(4).enlarged(small)[0, 5, 2:22, 0].tolist() == list(range(20, 220, 10))


def test_noise_on_a_coarse_picture_has_its_deviation_and_is_each_samples_own() -> None:
    x = torch.zeros(4, 3, 32, 32)
    seen = LowResolution(4, noise=0.25).seen(x, noise(4))
    assert torch.equal(seen, 0.25 * noise(4)(x, 0, Stream.SHOWN))
    assert abs(seen.std() - 0.25) < 5 * 0.25 / math.sqrt(2 * seen.numel())
    alone = LowResolution(4, noise=0.25).seen(x[2:3], noise(4).at(torch.tensor([2])))
    assert torch.equal(alone[0], seen[2])
    assert LowResolution(4).seen(x, noise(4)) is x
    for other in (Stream.EPS, Stream.START, Stream.STEP, Stream.RENOISE):
        assert not torch.equal(noise(4)(x, 0, other), noise(4)(x, 0, Stream.SHOWN))


def test_grey_is_bt601() -> None:
    u = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [10, 200, 30]], np.uint8)[None, None]
    grey = Grey().show(u)
    assert grey[0, 0].tolist() == [[v] * 3 for v in (76, 150, 29, 255, 124)]  # 76.245, 149.685, 29.07, 255, 123.81
    half = np.array([[250, 0, 250]], np.uint8)[None, None]  # 299·250 + 114·250 = 103250: 103.25
    assert Grey().show(half)[0, 0, 0, 0] == 103
    alpha = np.concatenate([u, np.full((1, 1, 5, 1), 7, np.uint8)], -1)
    assert (Grey().show(alpha)[..., 3] == 7).all() and (Grey().show(alpha)[..., :3] == grey).all()


def test_a_straight_step_is_as_bright_as_it_is_high() -> None:
    step = np.zeros((1, 6, 6, 3), np.uint8)
    step[:, :, 3:] = 100
    edges = Edges().show(step)
    assert edges[0, :, :, 0].tolist() == [[0, 0, 100, 100, 0, 0]] * 6
    assert (edges[..., 0] == edges[..., 2]).all()
    turned = Edges().show(step.transpose(0, 2, 1, 3))
    assert (turned[0, :, :, 0] == edges[0, :, :, 0].T).all()
    assert (Edges().show(255 - step) == edges).all()  # the magnitude has no sign
    ramp = np.broadcast_to(np.arange(0, 60, 10, dtype=np.uint8)[None, None, :, None], (1, 6, 6, 3))
    assert Edges().show(ramp)[0, :, :, 0].tolist() == [[10, 20, 20, 20, 20, 10]] * 6  # over two pixels; one at a border
    full = Edges().show(step // 100 * 255)
    assert full.max() == 255 and full.dtype == np.uint8
    green = np.zeros((1, 6, 6, 3), np.uint8)
    green[:, :, 3:, 1] = 200
    assert (Edges().show(green)[0, :, 2:4, 0] == 117).all()  # 0.587·200 = 117.4


def test_a_corner_and_a_point_are_sobels() -> None:
    point = np.zeros((1, 5, 5, 1), np.uint8)
    point[0, 2, 2] = 120
    diagonal = round(120 * math.sqrt(2) / 4)
    assert Edges().show(point)[0, 1:4, 1:4, 0].tolist() == [
        [diagonal, 60, diagonal],
        [60, 0, 60],
        [diagonal, 60, diagonal],
    ]
    corner = np.zeros((1, 6, 6, 1), np.uint8)
    corner[0, 3:, 3:] = 200
    # g_x = g_y = 3·200 at the inner pixel beside the corner, 200 at the outer one.
    shown = Edges().show(corner)[0, :, :, 0]
    assert shown[3, 3] == round(math.hypot(600, 600) / 4) and shown[2, 2] == round(math.hypot(200, 200) / 4)


def test_edges_of_colours_with_alpha_are_opaque() -> None:
    u = photos(channels=4)
    shown = Edges().show(u)
    assert (shown[..., 3] == 255).all() and (shown[..., :3] == Edges().show(u[..., :3])).all()


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.kind)
def test_arrays_and_tensors_are_shown_alike_mirrored_too(task: Any) -> None:
    u = photos()
    u.flags.writeable = False  # as packs are
    shown = task.show(u)
    assert isinstance(shown, np.ndarray) and shown.shape == u.shape and shown.dtype == np.uint8
    tensor = task.show(torch.from_numpy(u.copy()))
    assert tensor.dtype == torch.uint8 and (tensor.numpy() == shown).all()
    assert (task.show(u[:, :, ::-1]) == shown[:, :, ::-1]).all()  # a mirrored picture's is the mirrored one
    assert (task.show(u[1:2]) == shown[1:2]).all()
    assert task.itself == (task.kind == "masked") and task.paired == (task.kind == "paired")


def test_masks_are_functions_of_the_number_and_have_their_law() -> None:
    n, h, w = 4000, 16, 12
    hidden = drawn(noise(n), h, w)
    again = drawn(noise(n).at(torch.tensor([n - 1, 5])), h, w)
    assert torch.equal(again, hidden[[n - 1, 5]])
    share = hidden.double().mean((1, 2))
    assert abs(share.mean() - 7 / 16) < 5 * share.std() / math.sqrt(n)
    form = noise(n).uniform(0, Stream.MASK)
    box, half, rest = form < 0.5, (form >= 0.5) & (form < 0.75), form >= 0.75
    for one, mean in ((box, 1 / 4), (half, 1 / 2), (rest, 3 / 4)):
        assert abs(share[one].mean() - mean) < 5 * share[one].std() / math.sqrt(one.sum()) + 1e-12
    # A rectangle is what its rows and columns span, from a quarter to three quarters a side, and touches every border.
    for inside in (hidden[box], ~hidden[rest]):
        rows, columns = inside.any(2), inside.any(1)
        assert torch.equal(inside, rows[:, :, None] & columns[:, None, :])
        for side, length in ((rows, h), (columns, w)):
            assert side.sum(1).unique().tolist() == list(range(length // 4, length - length // 4 + 1))
            assert ((side[:, 1:] != side[:, :-1]).sum(1) <= 2).all()
            assert side.any(0).all()
            counts = side.sum(1).bincount(minlength=length + 1)[length // 4 : length - length // 4 + 1]
            expected = len(inside) / len(counts)
            assert ((counts - expected).abs() < 5 * math.sqrt(expected)).all()
    tall = hidden[box].any(2)
    lowest = tall[tall.sum(1) == 4]  # a rectangle of four rows begins at any of 13, however high it is
    starts = lowest.double().argmax(1).bincount(minlength=13)
    assert len(starts) == 13 and ((starts - len(lowest) / 13).abs() < 5 * math.sqrt(len(lowest) / 13)).all()
    quarters = torch.stack([hidden[half][:, i, j] for i, j in ((0, 0), (0, -1), (-1, 0), (-1, -1))], 1)
    kinds, counts = quarters.unique(dim=0, return_counts=True)
    assert kinds.tolist() == [
        [False, False, True, True],
        [False, True, False, True],
        [True, False, True, False],
        [True, True, False, False],
    ]
    assert ((counts - half.sum() / 4).abs() < 5 * math.sqrt(half.sum() / 4)).all()


def test_masked_hides_in_x_and_nothing_else() -> None:
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = Masked().seen(x, noise(5))
    hidden = drawn(noise(5), 8, 8)
    assert torch.equal(seen.isnan(), hidden[:, None].expand_as(x))
    assert torch.equal(seen.nan_to_num(0), x.masked_fill(hidden[:, None], 0))
    # A user's own mask is of pixels; in latents half as large, a place with one hidden pixel is hidden.
    own = torch.zeros(5, 16, 16, dtype=torch.bool)
    own[:, 3, 8] = True
    assert Masked().seen(x, noise(5), own).isnan()[:, 0].nonzero()[:, 1:].unique(dim=0).tolist() == [[1, 4]]
    with pytest.raises(ValueError, match="A mask of 12x12 pixels does not fit"):
        Masked().seen(x, noise(5), own[:, :12, :12])
    with pytest.raises(ValueError, match="task masked"):
        Grey().seen(x, noise(5), own)


def test_a_users_coarse_picture_is_used_as_it_is_and_any_other_brought_to_it() -> None:
    task, shape = LowResolution(4), (3, 64, 64)
    small = photos(1, 16)[0]
    assert (task.own(small, shape).pixels == task.enlarged(small[None])[0]).all()
    flat = np.full((200, 300, 3), 90, np.uint8)
    flat[:, :50] = flat[:, 250:] = 255  # cut off: the middle 200x200 is taken
    assert (task.own(flat, shape).pixels == 90).all()
    big = photos(1, 64)
    assert (task.own(big[0], shape).pixels == task.show(big)[0]).all()  # as training shows it
    twice = task.own(big[0].repeat(2, 0).repeat(2, 1), shape).pixels
    assert abs(twice.astype(int) - task.show(big)[0]).max() <= 1  # Pillow rounds for itself
    assert task.own(photos(1, 16, 1)[0], shape).pixels.shape == (64, 64, 3)
    with pytest.raises(ValueError, match=r"Pictures of 30x64 cannot be made 4 times smaller"):
        task.own(small, (3, 64, 30))


def test_a_users_picture_is_shown_as_training_would() -> None:
    u = photos(1, 16)[0]
    for task in (Grey(), Edges(), Paired()):
        own = task.own(u, (3, 16, 16))
        assert (own.pixels == task.show(u[None])[0]).all() and own.hidden is None
    assert (Grey().own(u[..., :1], (3, 16, 16)).pixels == u[..., :1]).all()
    with pytest.raises(ValueError, match=r"uint8 \[height, width, 1 to 4 channels\], not float64"):
        Paired().own(u / 255, (3, 16, 16))
    clear = np.concatenate([u, np.zeros((16, 16, 1), np.uint8)], -1)
    assert (Paired().own(clear, (3, 16, 16)).pixels == 255).all()  # what is transparent lies on white


def test_a_users_hole_is_where_alpha_is_low() -> None:
    u = photos(1, 16)[0]
    alpha = np.full((16, 16, 1), 255, np.uint8)
    alpha[2:5, 3:9] = 0
    own = Masked().own(np.concatenate([u, alpha], -1), (3, 16, 16))
    assert own.hidden is not None and (own.hidden == (alpha[..., 0] == 0)).all()
    assert (own.pixels[~own.hidden] == u[~own.hidden]).all() and (own.pixels[own.hidden] == 128).all()
    # Of any number of colours: what is transparent is a hole, and not white paper.
    grey = u[..., :1]
    for picture, shape in ((grey, (3, 16, 16)), (u, (1, 16, 16))):
        hole = Masked().own(np.concatenate([picture, alpha], -1), shape)
        assert hole.hidden is not None and (hole.hidden == own.hidden).all()
        want = Paired().own(np.where(alpha > 0, picture, np.uint8(128)), shape).pixels
        assert (hole.pixels == want).all() and hole.pixels.shape[2] == shape[0]
    whole = Masked().own(u, (3, 16, 16))
    assert whole.hidden is not None and not whole.hidden.any() and (whole.pixels == u).all()


def test_numbers_are_measured_where_they_are_known() -> None:
    v = np.array([[1.0, 5.0], [3.0, np.nan], [8.0, 5.0], [np.nan, 5.0]], np.float32)
    told = ByVector(dropout=0.2).measured(v, ("angle", "size"))
    assert told == ByVector(("angle", "size"), (4.0, 5.0), (2.94392, 1.0), 0.2)  # sqrt(26/3); size never varies
    z = told.standard(torch.from_numpy(v))
    assert z.dtype == torch.float32
    assert torch.equal(z.isnan(), torch.from_numpy(v).isnan())
    assert z[2, 0] == pytest.approx(4 / 2.94392) and z[0, 1] == 0
    # A mean far from zero is as exact as the deviation, and what is stated stays.
    far = 100_000.3 + 0.1 * np.array([[-1.0], [1.0], [3.0], [-3.0]])
    wide = ByVector().measured(far, ("year",))  # type: ignore[arg-type]
    assert wide.mean == pytest.approx((100_000.3,), abs=1e-6) and wide.std == (0.223607,)
    stated = ByVector(("year",), mean=(99_999.0,)).measured(far, ("year",))  # type: ignore[arg-type]
    assert (stated.mean, stated.std) == ((99_999.0,), (0.223607,))
    assert ByVector(("year",), std=(7.0,)).measured(far, ("year",)).std == (7.0,)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="No training example has a number size"):
        ByVector().measured(v[1:2], ("angle", "size"))
    with pytest.raises(ValueError, match="have not been measured"):
        ByVector(("a",)).standard(torch.zeros(1, 1))


def test_conditions_survive_a_config() -> None:
    told = Conditions(ByText(dropout=0.0), ByVector(("a",), (0.5,), (2.0,)), ByImage(LowResolution(2, 0.1), 0.3))
    assert from_table(Conditions, to_table(told)) == told
    assert told.names == ("text", "vector", "image") and told.dropped == ("vector", "image")
    assert Conditions() == from_table(Conditions, {}) and Conditions().names == ()
    assert from_table(Conditions, {"image": {"task": "edges"}}) == Conditions(image=ByImage(Edges()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ByText(dropout=1.0), r"text.dropout = 1.0 must be in \[0, 1\)"),
        (lambda: ByImage(Grey(), -0.1), "image.dropout = -0.1"),
        (lambda: ByVector(("a",), (0.0, 1.0), (1.0,)), "vector.mean"),
        (lambda: ByVector(("a",), (0.0,), (0.0,)), "must be above 0"),
        (lambda: LowResolution(1), "factor = 1 must be 2 to 256"),
        (lambda: LowResolution(4, -1.0), "noise = -1"),
        (lambda: LowResolution(5).show(photos()), "cannot be made 5 times smaller"),
        (lambda: LowResolution(4).check((2,)), "Vectors of 2 numbers are not pictures"),
        (lambda: Grey().show(photos(channels=1)), "no colours"),
        (lambda: Edges().check((2, 8, 8)), "not grey, RGB or RGBA"),
        (lambda: Masked().check((3, 2, 8)), "no part that could be hidden"),
        (lambda: Grey().show(photos().astype(np.float32)), "Only 8-bit pictures"),
    ],
)
def test_mistakes_are_told(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
