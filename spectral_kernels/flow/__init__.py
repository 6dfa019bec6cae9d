# SPDX-License-Identifier: Apache-2.0
"""Sampling and training for any velocity model `v(x, t)`, framework-neutral, on the library's ops.

z_t = (1 - t) x + t noise, v = dz/dt = noise - x; t = 1 is noise, t = 0 is data. A velocity is called with a state
[n, c, h, w] at any stage's size and a float t, and returns a tensor like the state.
"""

from spectral_kernels.flow.decomposable import Preview as Preview
from spectral_kernels.flow.decomposable import decomposable_loss as decomposable_loss
from spectral_kernels.flow.decomposable import initial_levels as initial_levels
from spectral_kernels.flow.decomposable import plot_times as plot_times
from spectral_kernels.flow.decomposable import plot_training_times as plot_training_times
from spectral_kernels.flow.decomposable import sample as sample
from spectral_kernels.flow.decomposable import sampling_times as sampling_times
from spectral_kernels.flow.decomposable import times_table as times_table
from spectral_kernels.flow.decomposable import training_loss as training_loss
from spectral_kernels.flow.decomposable import training_times as training_times
from spectral_kernels.flow.decomposable import training_times_table as training_times_table
from spectral_kernels.flow.editing import edit as edit
from spectral_kernels.flow.finetune import fine_tuning_loss as fine_tuning_loss
from spectral_kernels.flow.finetune import fine_tuning_pair as fine_tuning_pair
from spectral_kernels.flow.passthrough import passthrough as passthrough
from spectral_kernels.flow.passthrough import radial_frequency as radial_frequency
from spectral_kernels.flow.progressive import full_resolution as full_resolution
from spectral_kernels.flow.progressive import initial_noise as initial_noise
from spectral_kernels.flow.progressive import progressive as progressive
from spectral_kernels.flow.solvers import euler as euler
from spectral_kernels.flow.solvers import forecast_euler as forecast_euler
from spectral_kernels.flow.solvers import heun as heun
