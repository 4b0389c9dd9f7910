"""The maker's side: pin, pack, push, sign, preload. The device never imports it."""
