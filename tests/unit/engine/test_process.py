from fedtrain.engine.process import device_variables, thread_variables


def test_gpus_are_given_out_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5,GPU-abc")
    devices = [device_variables(index) for index in range(4)]
    assert devices == [{"CUDA_VISIBLE_DEVICES": device} for device in ("2", "5", "GPU-abc", "2")]


def test_one_gpu_or_none_is_left_as_it_is(monkeypatch):
    for visible in ("", "0", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert device_variables(1) == {}


def test_all_numeric_libraries_get_the_same_number_of_threads():
    assert thread_variables(3) == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
