package caddyplugin_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/caddy-capif/aef/internal/adminapi"
)

// TestStreamsEndOnAFullDisk: the answer is 503, and what is denied in memory ends
// streams all the same.
func TestStreamsEndOnAFullDisk(t *testing.T) {
	b := startStreams(t, &streamBackend{pause: streamPause}, "end_streams")
	id, token := b.minted()
	_, other := b.minted()
	mine, bystander := b.over(b.h2, "/location/sse", token), b.over(b.h2, "/location/sse", other)
	status, err := b.caddy.Admin(b.ctx, http.MethodPost, fmt.Sprint("/lifecycle/file-size?limit=", diskFull), nil, nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("limiting the file size: got %v, %v; want 200", status, err)
	}
	status, err = b.caddy.Admin(b.ctx, http.MethodPost, adminapi.PathRevocations, revokeRequest(id), nil)
	if err != nil || status != http.StatusServiceUnavailable {
		t.Fatalf("trigger: got %v, %v; want 503", status, err)
	}
	b.wantEnded(mine)
	b.wantOpen(bystander)
}
