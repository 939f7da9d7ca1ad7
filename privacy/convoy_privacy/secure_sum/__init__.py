"""The secure sum: a shard's updates are added up, and nobody sees a single one.

Source: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS
2017, with signed keys and a complete graph of masks. One party a file, each a state machine that takes
messages and gives messages (protos/convoy_protos/v1/secure_sum.proto):

  terms        what all parties of one sum agree on, its digest, the threshold
  messages     strict parsing, labels, signatures
  roster       who is in it, checked by every vehicle for itself
  masks        keys of the masks and of the boxes that shares travel in
  vehicle      check_in, share, accept_shares, masked, sign_upload, unmask
  aggregator   one shard, one attempt; total on whatever a peer sends
  recovery     the lost members' and the survivors' secrets from their peers' shares

With mask helpers a vehicle uploads once, and nobody rebuilds anything:

  helped_vehicle, helper, helper_memory, helped_aggregator
"""
