package api

import (
	"errors"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

func TestChosen(t *testing.T) {
	all := []plugin.Revision{{Generation: 5}, {Generation: 4}, {Generation: 3, Fault: "spec.quantum: is no field"}}
	for _, tt := range []struct {
		name    string
		to, now int64
		want    int64
		fault   error
		says    string
	}{
		{"the one before", 0, 5, 4, nil, ""},
		{"a given one", 5, 5, 5, nil, ""},
		{"not accepted", 3, 5, 3, plugin.ErrInvalid, "spec.quantum"},
		{"not kept", 1, 5, 0, plugin.ErrNotFound, "kept are [5 4 3]"},
		{"nothing before", 0, 3, 0, plugin.ErrNotFound, "before generation 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := chosen(all, tt.to, tt.now)
			if got.Generation != tt.want || !errors.Is(err, tt.fault) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %d, %v, want %d, %v", got.Generation, err, tt.want, tt.fault)
			}
		})
	}
}
