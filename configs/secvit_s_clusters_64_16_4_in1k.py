# Table 7. Its fourth setting, 32, 8 and 2 clusters, is secvit_s_in1k.py.
_base_ = './secvit_s_in1k.py'
model = dict(backbone=dict(num_clusters=(64, 16, 4, 1)))
