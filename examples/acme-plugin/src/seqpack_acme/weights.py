"""ACME's models: Llama with a bias behind attention."""

from seqpack.api import ATTENTION, MLP, Part, Rule, WeightConverter

PROJECTION_BIAS = Rule("self_attention.linear_proj.bias", (Part("self_attn.o_proj.bias", ("hidden_size",)),))

ACME = WeightConverter("acme", ("AcmeForCausalLM",), (*ATTENTION, PROJECTION_BIAS), MLP)
