//go:build !race

package testpage

const raceDetector = false
