from fa_lightning.reports.site_names import site_order


def test_sites_are_ordered_by_number_with_the_residual_stream_first():
    sites = ["several", "layers.10.residual", "layers.0.mlp", "layers.9.residual"]
    assert sorted(sites, key=site_order) == ["layers.9.residual", "layers.10.residual", "layers.0.mlp", "several"]
