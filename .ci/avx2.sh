#!/usr/bin/env bash
# Run a command as on a processor whose newest instructions are AVX2: bash .ci/avx2.sh COMMAND [ARGUMENT ...]
# Newer instructions are hidden from oneDNN, MKL, PyTorch's own kernels, OpenBLAS, NumPy and XLA. On a processor without
# them this changes nothing.
set -euo pipefail
export ONEDNN_MAX_CPU_ISA=AVX2 DNNL_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2
export OPENBLAS_CORETYPE=Haswell
# TensorFlow asks the processor itself whether oneDNN has half-precision kernels, and then finds them hidden: its own
# kernels are what it would use. What PyTorch's compiler has cached was compiled for the instructions that are there.
export TF_ENABLE_ONEDNN_OPTS=0 TORCHINDUCTOR_FORCE_DISABLE_CACHES=1
# NumPy names groups of instructions differently from release to release, and warns about names it doesn't know.
export NPY_DISABLE_CPU_FEATURES="AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL X86_V4 AVX512_ICL AVX512_SPR"
export XLA_FLAGS="--xla_cpu_max_isa=AVX2 ${XLA_FLAGS:-}"
exec "$@"
