/// The kernels, by their entry points (polar_cuda_kernels.h lists them with their arguments).
package enum Kernel: String, CaseIterable, Sendable {
  case attentionPlan = "polar_attention_plan"
  case attentionDecode = "polar_attention_decode"
  case attentionCombine = "polar_attention_combine"
  case attentionPrefill = "polar_attention_prefill"
  case storeKV = "polar_store_kv"
  case rotaryStoreKV = "polar_rotary_store_kv"
  case embed = "polar_embed"
  case gatherRows = "polar_gather_rows"
  case rmsNorm = "polar_rms_norm"
  case layerNorm = "polar_layer_norm"
  case add = "polar_add"
  case relu = "polar_relu"
  case gelu = "polar_gelu"
  case siluMul = "polar_silu_mul"
  case reluMul = "polar_relu_mul"
  case convert = "polar_convert"
  case linear8 = "polar_linear_8"
  case linear16 = "polar_linear_16"
  case linear32 = "polar_linear_32"
  case linear64 = "polar_linear_64"
  case reduce = "polar_reduce"
  case selectiveUp8 = "polar_selective_up_8"
  case selectiveUp16 = "polar_selective_up_16"
  case selectiveUp32 = "polar_selective_up_32"
  case selectiveUp64 = "polar_selective_up_64"
  case selectiveUpGated8 = "polar_selective_up_gated_8"
  case selectiveUpGated16 = "polar_selective_up_gated_16"
  case selectiveUpGated32 = "polar_selective_up_gated_32"
  case selectiveUpGated64 = "polar_selective_up_gated_64"
  case selectiveFinish = "polar_selective_finish"
  case selectiveDown8 = "polar_selective_down_8"
  case selectiveDown16 = "polar_selective_down_16"
  case selectiveDown32 = "polar_selective_down_32"
  case selectiveDown64 = "polar_selective_down_64"
  case unionSums = "polar_union_sums"
  case unionPeaks = "polar_union_peaks"
  case listTopK = "polar_list_top_k"
  case listAbove = "polar_list_above"
  case selectTopK = "polar_select_top_k"
  case selectAbove = "polar_select_above"
  case headNorms = "polar_head_norms"
  case headDeviations = "polar_head_deviations"
  case argmax = "polar_argmax"
  case sample = "polar_sample"
  case turns = "polar_turns"
  case sumRows = "polar_sum_rows"
  case storeRows = "polar_store_rows"
  case packActive = "polar_pack_active"
  case moments = "polar_moments"
  case gatherScaled = "polar_gather_scaled"
  case transpose = "polar_transpose"
  case transposeElements = "polar_transpose_elements"
  case crossEntropySlopes = "polar_cross_entropy_slopes"
  case squaredErrorSlopes = "polar_squared_error_slopes"
  case addBias = "polar_add_bias"
  case maskInactive = "polar_mask_inactive"
  case adamW = "polar_adamw"
  case ridgeBegin = "polar_ridge_begin"
  case ridgeFactor = "polar_ridge_factor"
  case ridgePanel = "polar_ridge_panel"
  case ridgeUpdate = "polar_ridge_update"
  case ridgeFinish = "polar_ridge_finish"
  case routeHeads = "polar_route_heads"
  case routeNeurons8 = "polar_route_neurons_8"
  case routeNeurons16 = "polar_route_neurons_16"
  case routeNeurons32 = "polar_route_neurons_32"
  case routeNeurons64 = "polar_route_neurons_64"

  /// The source file, without its ending, that the kernel is in.
  package var file: String {
    switch self {
    case .attentionPlan, .attentionDecode, .attentionCombine, .attentionPrefill, .storeKV, .rotaryStoreKV:
      "attention"
    case .embed, .gatherRows, .rmsNorm, .layerNorm, .add, .relu, .gelu, .siluMul, .reluMul, .convert:
      "dense"
    case .linear8, .linear16, .linear32, .linear64, .reduce: "linear"
    case .selectiveUp8, .selectiveUp16, .selectiveUp32, .selectiveUp64, .selectiveUpGated8,
      .selectiveUpGated16, .selectiveUpGated32, .selectiveUpGated64, .selectiveFinish, .selectiveDown8,
      .selectiveDown16, .selectiveDown32, .selectiveDown64:
      "selective"
    case .unionSums, .unionPeaks, .listTopK, .listAbove, .selectTopK, .selectAbove, .headNorms,
      .headDeviations, .argmax, .sample:
      "routing"
    case .turns, .sumRows, .storeRows, .packActive, .moments, .gatherScaled, .transpose, .transposeElements,
      .crossEntropySlopes, .squaredErrorSlopes, .addBias, .maskInactive, .adamW, .ridgeBegin, .ridgeFactor,
      .ridgePanel, .ridgeUpdate, .ridgeFinish:
      "training"
    case .routeHeads, .routeNeurons8, .routeNeurons16, .routeNeurons32, .routeNeurons64: "router"
    }
  }

  /// Whether only calibration needs it.
  package var isForTraining: Bool { file == "training" }

  /// Whether there is one for each head dimension.
  package var dependsOnHeadDim: Bool { file == "attention" }

  /// The variant of a matrix kernel for a block of `tokens` tokens.
  static func linear(tokens: Int) -> Kernel {
    switch tokens {
    case 8: .linear8
    case 16: .linear16
    case 32: .linear32
    default: .linear64
    }
  }

  /// The variant of selective up.
  static func selectiveUp(tokens: Int, gated: Bool) -> Kernel {
    switch tokens {
    case 8: gated ? .selectiveUpGated8 : .selectiveUp8
    case 16: gated ? .selectiveUpGated16 : .selectiveUp16
    case 32: gated ? .selectiveUpGated32 : .selectiveUp32
    default: gated ? .selectiveUpGated64 : .selectiveUp64
    }
  }

  /// The variant of selective down.
  static func selectiveDown(tokens: Int) -> Kernel {
    switch tokens {
    case 8: .selectiveDown8
    case 16: .selectiveDown16
    case 32: .selectiveDown32
    default: .selectiveDown64
    }
  }

  /// The variant of the neuron router for a block of `tokens` tokens.
  static func routeNeurons(tokens: Int) -> Kernel {
    switch tokens {
    case 8: .routeNeurons8
    case 16: .routeNeurons16
    case 32: .routeNeurons32
    default: .routeNeurons64
    }
  }
}
