//go:build !linux

package nbio

func growPipe(int, int) {}
