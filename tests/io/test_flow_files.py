"""Every flow format keeps x and y, rows and columns where they are, and no broken file gets past an InputError."""

import io
import struct

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowkit.errors import InputError, OutputError
from flowkit.io.flow_files import read_flow, write_flow

EXACT = [".flo", ".pfm", ".flo5", ".npy", ".npz"]
ALL = [*EXACT, ".png"]
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def flow(height=5, width=7, unknown=True):
    """Values that differ in every pixel and channel, on KITTI's grid of 1/64."""
    rows, columns = np.mgrid[:height, :width]
    uv = np.stack([columns * 3 + rows / 64 - 5, -40 - rows * 2 + columns / 32]).astype(np.float32)
    if unknown:
        uv[:, 1, 2] = np.nan
    return uv


@pytest.fixture(params=ALL)
def suffix(request):
    return request.param


def test_round_trip(tmp_path, suffix):
    for uv in (flow(), flow(unknown=False), flow(1, 1, False), flow(2, 2, False), flow(3, 1, False), flow(1, 4, False)):
        path = tmp_path / f"ein flüss{suffix}"
        write_flow(path, uv)
        back = read_flow(path)
        assert back.dtype == np.float32 and back.shape == uv.shape and back.flags.c_contiguous and back.flags.writeable
        np.testing.assert_array_equal(back, uv)


@pytest.mark.parametrize("suffix", EXACT)
@given(data=st.data())
@quick
def test_round_trip_of_any_float(tmp_path, suffix, data):
    height, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    values = st.floats(-1e9, 1e9, width=32) | st.just(float("nan"))
    uv = np.array(data.draw(st.lists(values, min_size=2 * height * width, max_size=2 * height * width)), np.float32)
    uv = uv.reshape(2, height, width)
    write_flow(tmp_path / f"x{suffix}", uv)
    uv[:, np.isnan(uv).any(axis=0)] = np.nan
    np.testing.assert_array_equal(read_flow(tmp_path / f"x{suffix}"), uv)


def test_same_bytes_twice_and_input_untouched(tmp_path, suffix):
    uv = flow()
    uv[0, 0, 0] = np.inf
    before = uv.copy()
    write_flow(tmp_path / f"a{suffix}", uv)
    write_flow(tmp_path / f"b{suffix}", uv)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    np.testing.assert_array_equal(uv, before)
    assert np.isnan(read_flow(tmp_path / f"a{suffix}")[:, 0, 0]).all()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


# --- what other programs write and read ------------------------------------------------------------------------------


def test_flo_bytes_and_opencv_both_ways(tmp_path):
    uv = flow(unknown=False)
    write_flow(tmp_path / "a.flo", uv)
    data = (tmp_path / "a.flo").read_bytes()
    assert data[:12] == b"PIEH" + struct.pack("<ii", 7, 5)
    assert struct.unpack("<ffff", data[12:28]) == (uv[0, 0, 0], uv[1, 0, 0], uv[0, 0, 1], uv[1, 0, 1])
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(tmp_path / "a.flo")), uv.transpose(1, 2, 0))
    cv2.writeOpticalFlow(str(tmp_path / "b.flo"), np.ascontiguousarray(uv.transpose(1, 2, 0)))
    np.testing.assert_array_equal(read_flow(tmp_path / "b.flo"), uv)
    assert (tmp_path / "b.flo").read_bytes() == data


def test_channel_0_is_x_for_opencv(tmp_path):
    uv = np.ones((2, 3, 4), np.float32)
    uv[1] = 2
    write_flow(tmp_path / "a.flo", uv)
    assert (cv2.readOpticalFlow(str(tmp_path / "a.flo"))[..., 0] == 1).all()


def test_flo_unknown_is_1e10(tmp_path):
    write_flow(tmp_path / "a.flo", flow())
    other = cv2.readOpticalFlow(str(tmp_path / "a.flo"))
    assert (other[1, 2] == np.float32(1e10)).all()
    body = np.array([[[1, 2], [3, -2e9], [np.inf, 0], [0, np.nan]]], "<f4")
    (tmp_path / "b.flo").write_bytes(b"PIEH" + struct.pack("<ii", 4, 1) + body.tobytes())
    assert np.isnan(read_flow(tmp_path / "b.flo")).tolist() == [[[False, True, True, True]]] * 2


def test_pfm_rows_run_bottom_to_top_in_both_byte_orders(tmp_path):
    uv = flow(unknown=False)
    write_flow(tmp_path / "a.pfm", uv)
    data = (tmp_path / "a.pfm").read_bytes()
    assert data.startswith(b"PF\n7 5\n-1.0\n")
    body = np.frombuffer(data, "<f4", offset=len(b"PF\n7 5\n-1.0\n")).reshape(5, 7, 3)
    np.testing.assert_array_equal(body[0, :, 0], uv[0, -1])
    assert (body[..., 2] == 0).all()
    opencv = cv2.imread(str(tmp_path / "a.pfm"), cv2.IMREAD_UNCHANGED)  # BGR, top to bottom
    np.testing.assert_array_equal(opencv[..., 2], uv[0])
    np.testing.assert_array_equal(opencv[..., 1], uv[1])
    (tmp_path / "b.pfm").write_bytes(b"PF\n7 5\n1.0\n" + body.astype(">f4").tobytes())
    np.testing.assert_array_equal(read_flow(tmp_path / "b.pfm"), uv)


def test_kitti_channels_seen_by_opencv(tmp_path):
    write_flow(tmp_path / "a.png", flow())
    bgr = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert bgr.dtype == np.uint16 and bgr.shape == (5, 7, 3)
    assert bgr[0, 0].tolist() == [1, 32768 - 40 * 64, 32768 - 5 * 64]
    assert bgr[1, 2].tolist() == [0, 0, 0]
    bgr[3, 4] = [0, 40000, 40000]
    cv2.imwrite(str(tmp_path / "b.png"), bgr)
    back = read_flow(tmp_path / "b.png")
    assert np.isnan(back[:, 3, 4]).all() and back[0, 0, 0] == -5 and back[1, 0, 0] == -40


def test_kitti_rounds_and_clips(tmp_path):
    step = 1 / 64
    u = np.array([[0.6 * step, 0.4 * step, -0.6 * step, 1.51 * step, 511, 513, 5000, -511.999, -513, -1e8]], np.float32)
    write_flow(tmp_path / "a.png", np.stack([u, -u]))
    top = 65535 / 64 - 512
    expected = np.array([[step, 0, -step, 2 * step, 511, top, top, -512, -512, -512]], np.float32)
    back = read_flow(tmp_path / "a.png")
    np.testing.assert_array_equal(back[0], expected)
    np.testing.assert_array_equal(back[1], np.clip(np.rint(-u * 64) / 64, -512, top))


def test_flo5_is_what_spring_reads(tmp_path):
    write_flow(tmp_path / "a.flo5", flow())
    with h5py.File(tmp_path / "a.flo5") as store:
        assert store["flow"].compression == "gzip" and store["flow"].shape == (5, 7, 2)
        np.testing.assert_array_equal(store["flow"][()].transpose(2, 0, 1), flow())


def test_npy_layouts(tmp_path):
    uv = flow()
    for array in (
        uv.transpose(1, 2, 0),
        uv.astype(">f8"),
        np.asfortranarray(uv),
        uv.transpose(1, 2, 0).astype(np.float64),
    ):
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(read_flow(tmp_path / "a.npy"), uv)
        np.savez(tmp_path / "a.npz", flow=array)
        np.testing.assert_array_equal(read_flow(tmp_path / "a.npz"), uv)
    ambiguous = flow(4, 2, unknown=False)  # (2, 4, 2): read as (2, H, W), as it was written
    np.save(tmp_path / "a.npy", ambiguous)
    np.testing.assert_array_equal(read_flow(tmp_path / "a.npy"), ambiguous)
    np.save(tmp_path / "a.npy", np.full((2, 1, 1), 1e300))
    assert np.isnan(read_flow(tmp_path / "a.npy")).all()


def test_viper_npz(tmp_path):
    u, v = flow(unknown=False)
    u[0, 0], v[1, 1] = 600, np.nan
    np.savez(tmp_path / "a.npz", u=u, v=v)
    back = read_flow(tmp_path / "a.npz")
    assert np.isnan(back[:, 0, 0]).all() and np.isnan(back[:, 1, 1]).all()
    np.testing.assert_array_equal(back[:, 2:], np.stack([u, v])[:, 2:])


# --- files that are not what they say --------------------------------------------------------------------------------


def refused(path, data, words):
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        read_flow(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_paths(tmp_path, suffix):
    with pytest.raises(InputError, match="no such file"):
        read_flow(tmp_path / f"missing{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_flow(tmp_path / f"folder{suffix}")
    refused(tmp_path / f"empty{suffix}", b"", "is empty")
    refused(tmp_path / f"text{suffix}", b"hello, this is only text\n" * 9, "is not|cannot be decoded")
    with pytest.raises(InputError, match="not a flow format"):
        read_flow(tmp_path / "flow.jpg")
    with pytest.raises(OutputError, match="not a flow format"):
        write_flow(tmp_path / "flow.jpg", flow())
    with pytest.raises(ValueError, match=r"\(2, H, W\)"):
        write_flow(tmp_path / f"x{suffix}", flow().transpose(1, 2, 0))


@pytest.mark.parametrize("suffix", [".flo", ".pfm", ".npy"])
def test_sizes_must_agree(tmp_path, suffix):
    write_flow(tmp_path / f"a{suffix}", flow())
    data = (tmp_path / f"a{suffix}").read_bytes()
    if suffix != ".npy":  # numpy itself refuses to map a short file
        refused(tmp_path / f"a{suffix}", data[:-1], f"cut short.*{len(data) - 1} bytes.*{len(data)}")
    refused(tmp_path / f"a{suffix}", data[:-100], "cut short|cannot be decoded")
    refused(tmp_path / f"a{suffix}", data + b"abc", f"too many.*{len(data) + 3} bytes.*{len(data)}")


def test_absurd_dimensions_are_refused_before_allocation(tmp_path):
    for width, height in ((0, 5), (-3, 5), (200_000, 1), (99_999, 99_999), (2**31 - 1, 2**31 - 1)):
        refused(tmp_path / "a.flo", b"PIEH" + struct.pack("<ii", width, height) + b"\0" * 40, "cannot be")
    refused(tmp_path / "a.pfm", b"PF\n99999 99999\n-1\n" + b"\0" * 40, "cannot be")
    refused(tmp_path / "a.pfm", b"PF\n1 1\n0\n" + b"\0" * 12, "byte order")
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 90_000, 90_000, 16, 2, 0, 0, 0) + b"\0" * 40
    refused(tmp_path / "a.png", header, "cannot be")
    with h5py.File(tmp_path / "a.flo5", "w") as store:
        store.create_dataset("flow", shape=(90_000, 90_000, 2), dtype="f4", chunks=(100, 100, 2))
    with pytest.raises(InputError, match="cannot be"):
        read_flow(tmp_path / "a.flo5")
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (2, 10**9, 10**9)})
    refused(tmp_path / "a.npy", buffer.getvalue() + b"\0" * 40, "cannot be")


def test_a_png_with_parts_past_its_end(tmp_path):
    write_flow(tmp_path / "a.png", flow())
    data = (tmp_path / "a.png").read_bytes()
    for cut in (1, 12, 40):
        refused(tmp_path / "a.png", data[:-cut], "cut short")
    refused(tmp_path / "a.png", data[:33] + b"\x7f" + data[34:], "cut short")
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 16, 2, 0, 0, 0)
    refused(tmp_path / "a.png", data[:16] + header + data[29:], "cut short")


def test_other_contents(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    refused(tmp_path / "a.png", cv2.imencode(".png", picture)[1].tobytes(), "ordinary picture")
    refused(
        tmp_path / "a.png", cv2.imencode(".png", picture[..., 0].astype(np.uint16))[1].tobytes(), "ordinary picture"
    )
    refused(tmp_path / "a.flo", b"HEIP" + struct.pack("<ii", 1, 1) + b"\0" * 8, "PIEH")
    refused(tmp_path / "a.flo", b"PIEH\0\0", "cut short")
    refused(tmp_path / "a.pfm", b"Pf\n1 1\n-1\n" + b"\0" * 4, "one channel")
    for array, words in (
        (np.array([{}, {}]), "cannot be decoded"),
        (np.zeros((3, 4, 5)), "shape"),
        (np.zeros((4, 5)), "shape"),
        (np.zeros((2, 3, 4, 5)), "shape"),
        (np.zeros((2, 0, 5)), "cannot be"),
        (np.zeros((2, 3, 4), complex), "real numbers"),
        (np.full((2, 3, 4), "a"), "real numbers"),
    ):
        buffer, archive = io.BytesIO(), io.BytesIO()
        np.save(buffer, array)
        np.savez(archive, flow=array)
        refused(tmp_path / "a.npy", buffer.getvalue(), words)
        refused(tmp_path / "a.npz", archive.getvalue(), words)
        refused(tmp_path / "b.npz", buffer.getvalue(), "not a .npz|cannot be decoded")
        refused(tmp_path / "b.npy", archive.getvalue(), "not a .npy")
    archive = io.BytesIO()
    np.savez(archive, something=np.zeros(3))
    refused(tmp_path / "a.npz", archive.getvalue(), "something")
    archive = io.BytesIO()
    np.savez(archive, u=np.zeros((3, 4)), v=np.zeros((4, 3)))
    refused(tmp_path / "a.npz", archive.getvalue(), "both must be")
    with h5py.File(tmp_path / "a.flo5", "w") as store:
        store.create_group("flow")
    with pytest.raises(InputError, match='no dataset "flow"'):
        read_flow(tmp_path / "a.flo5")
    with h5py.File(tmp_path / "a.flo5", "w") as store:
        store["flow"] = flow()
    with pytest.raises(InputError, match="shape"):
        read_flow(tmp_path / "a.flo5")


@given(data=st.data())
@quick
def test_mutated_files_raise_nothing_but_input_errors(tmp_path, suffix, data):
    path = tmp_path / f"m{suffix}"
    write_flow(path, flow())
    content = bytearray(path.read_bytes())
    early = st.integers(0, min(len(content) - 1, 130))  # headers first, they decide
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(early | st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path.write_bytes(bytes(content))
    try:
        uv = read_flow(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert uv.dtype == np.float32 and uv.shape[0] == 2 and uv.ndim == 3


@given(data=st.binary(max_size=300), keep=st.integers(0, 12))
@quick
def test_random_bytes_raise_nothing_but_input_errors(tmp_path, suffix, data, keep):
    path = tmp_path / f"r{suffix}"
    write_flow(path, flow())
    path.write_bytes(path.read_bytes()[:keep] + data)
    with pytest.raises(InputError):
        read_flow(path)
