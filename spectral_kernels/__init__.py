# SPDX-License-Identifier: Apache-2.0
"""Spectral resolution changes and feature forecasting for diffusion models, with the same bits on every backend."""

from spectral_kernels.evaluation import evaluation_steps as evaluation_steps
from spectral_kernels.expand import Expanded as Expanded
from spectral_kernels.expand import dct_expand as dct_expand
from spectral_kernels.expand import dct_truncate as dct_truncate
from spectral_kernels.expand import dwt_expand as dwt_expand
from spectral_kernels.expand import dwt_truncate as dwt_truncate
from spectral_kernels.expand import fft_expand as fft_expand
from spectral_kernels.expand import fft_truncate as fft_truncate
from spectral_kernels.expand import spectral_lift as spectral_lift
from spectral_kernels.forecast import chebyshev_forecast as chebyshev_forecast
from spectral_kernels.forecast import chebyshev_weights as chebyshev_weights
from spectral_kernels.forecast import forecast as forecast
from spectral_kernels.forecast import hermite_weights as hermite_weights
from spectral_kernels.forecast import linear_weights as linear_weights
from spectral_kernels.forecast import reuse_weights as reuse_weights
from spectral_kernels.forecast import taylor_weights as taylor_weights
from spectral_kernels.forecaster import Forecaster as Forecaster
from spectral_kernels.layouts import Patches as Patches
from spectral_kernels.layouts import Planes as Planes
from spectral_kernels.layouts import Tokens as Tokens
from spectral_kernels.noise import normal as normal
from spectral_kernels.pyramid import NoisyLevels as NoisyLevels
from spectral_kernels.pyramid import laplacian_pyramid as laplacian_pyramid
from spectral_kernels.pyramid import laplacian_reconstruct as laplacian_reconstruct
from spectral_kernels.pyramid import noise_levels as noise_levels
from spectral_kernels.schedule import ResolutionSchedule as ResolutionSchedule
from spectral_kernels.schedule import Stage as Stage
from spectral_kernels.schedule import activation_time as activation_time
from spectral_kernels.schedule import align_time as align_time
from spectral_kernels.schedule import resolution_schedule as resolution_schedule
from spectral_kernels.schedule import stage_sizes as stage_sizes
from spectral_kernels.schedule import transition_time as transition_time
from spectral_kernels.schedule import velocity_error as velocity_error
from spectral_kernels.spectrum import FLUX_LATENT as FLUX_LATENT
from spectral_kernels.spectrum import PIXEL as PIXEL
from spectral_kernels.spectrum import WAN_LATENT as WAN_LATENT
from spectral_kernels.spectrum import PowerLaw as PowerLaw
from spectral_kernels.spectrum import PowerSpectrum as PowerSpectrum
from spectral_kernels.transforms import dctn as dctn
from spectral_kernels.transforms import dwt2 as dwt2
from spectral_kernels.transforms import idctn as idctn
from spectral_kernels.transforms import idwt2 as idwt2

__version__ = "0.1.0"
