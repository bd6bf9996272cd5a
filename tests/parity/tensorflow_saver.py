"""Checkpoints that TensorFlow itself writes, in a process and an environment of its own: arguments ARRAYS DIRECTORY.

ARRAYS is an .npz of variables by their names. DIRECTORY gets one.index with one file of data, three.index with three,
half.index in bfloat16, and sliced.index, in which the largest variable is zeros in two slices.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow.compat.v1 as tf

DEVICES = 3


def save(arrays: dict[str, np.ndarray], path: str, *, devices: int = 1, half: bool = False, sliced: str = "") -> None:
    graph = tf.Graph()
    with graph.as_default():
        for count, (name, array) in enumerate(arrays.items()):
            initial, partitioner = tf.constant_initializer(array), None
            if name == sliced:
                initial, partitioner = tf.zeros_initializer(), tf.fixed_size_partitioner(2)
            dtype = tf.bfloat16 if half else tf.float32
            with tf.device(f"/cpu:{count % devices}"):
                tf.get_variable(name, array.shape, dtype, initial, partitioner=partitioner)
        with tf.device("/cpu:0"):
            tf.train.get_or_create_global_step()
        saver = tf.train.Saver(sharded=devices > 1)
        config = tf.ConfigProto(device_count={"CPU": DEVICES})
        with tf.Session(graph=graph, config=config) as session:
            session.run(tf.global_variables_initializer())
            saver.save(session, path)


if __name__ == "__main__":
    tf.disable_v2_behavior()
    with np.load(sys.argv[1]) as file:
        arrays = dict(file)
    save(arrays, f"{sys.argv[2]}/one")
    save(arrays, f"{sys.argv[2]}/three", devices=DEVICES)
    save(arrays, f"{sys.argv[2]}/half", half=True)
    save(arrays, f"{sys.argv[2]}/sliced", sliced=max(arrays, key=lambda name: arrays[name].size))
