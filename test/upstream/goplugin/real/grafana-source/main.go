// Command grafana is a Grafana data source on Grafana's own SDK: it reports its
// health, answers each query with one number, and serves one resource.
package main

import (
	"context"
	"net/http"
	"os"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/data"
)

type source struct{}

func (source) CheckHealth(context.Context, *backend.CheckHealthRequest) (*backend.CheckHealthResult, error) {
	return &backend.CheckHealthResult{Status: backend.HealthStatusOk, Message: "the source is there"}, nil
}

func (source) QueryData(_ context.Context, in *backend.QueryDataRequest) (*backend.QueryDataResponse, error) {
	out := backend.NewQueryDataResponse()
	for _, q := range in.Queries {
		frame := data.NewFrame(q.RefID, data.NewField("value", nil, []float64{42}))
		out.Responses[q.RefID] = backend.DataResponse{Frames: data.Frames{frame}}
	}
	return out, nil
}

func (source) CallResource(_ context.Context, in *backend.CallResourceRequest, send backend.CallResourceResponseSender) error {
	for _, part := range []string{in.Path, "!"} {
		if err := send.Send(&backend.CallResourceResponse{Status: http.StatusOK, Body: []byte(part)}); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	err := backend.Manage("patchbay-source", backend.ServeOpts{CheckHealthHandler: source{}, QueryDataHandler: source{}, CallResourceHandler: source{}})
	if err != nil {
		backend.Logger.Error(err.Error())
		os.Exit(1)
	}
}
