{{- /* The pod of the gateway, as a template of its StatefulSet or Deployment. */ -}}
{{- define "usher.gateway.pod" -}}
{{- $database := .Values.store.postgresql -}}
{{- $isPostgresql := eq .Values.store.type "PostgreSQL" -}}
metadata:
  labels: {{- include "usher.podLabels" (list . "gateway" .Values.gateway.podLabels) | nindent 4 }}
  {{- with .Values.gateway.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "usher.gateway.serviceAccount" . | quote }}
  automountServiceAccountToken: true
  terminationGracePeriodSeconds: {{ .Values.gateway.terminationGracePeriodSeconds }}
  {{- include "usher.podSpec" (list . (merge (dict "topologySpreadConstraints" (include "usher.gateway.spread" . | fromYamlArray)) .Values.gateway) "gateway") | nindent 2 }}
  containers:
  - name: gateway
    {{- include "usher.container" (list . .Values.gateway) | nindent 4 }}
    args:
    - usher
    - run
    - --from-cluster
    - --config-namespace={{ include "usher.configurationNamespace" . }}
    - --data=/data
    - --listen=0.0.0.0:8080
    - --admin=0.0.0.0:9090
    - --admin-tokens=/tokens
    - --admin-host={{ include "usher.name" . }}-gateway-admin.{{ .Release.Namespace }}.svc
    {{- with .Values.pages }}
    {{- if .ingress.enabled }}
    {{- range .ingress.hosts }}
    - --admin-host={{ .host }}
    {{- end }}
    {{- end }}
    {{- range .proxies }}
    - --page-proxies={{ . }}
    {{- end }}
    {{- range .roles }}
    - {{ printf "--page-role=%s" . | quote }}
    {{- end }}
    {{- if .proxies }}
    - --page-user-header={{ .userHeader }}
    - --page-groups-header={{ .groupsHeader }}
    {{- end }}
    {{- if .brandConfigMap }}
    - --brand=/brand/brand.yaml
    {{- end }}
    {{- end }}
    {{- with .Values.gateway.kubernetesTokens }}
    {{- if .enabled }}
    - --admin-kubernetes-tokens
    {{- with .audience }}
    - --admin-token-audience={{ . }}
    {{- end }}
    {{- end }}
    {{- end }}
    - --log-format=json
    - --log-level={{ .Values.gateway.logLevel }}
    - --receipt-days={{ int .Values.gateway.receiptDays }}
    - --backup-days={{ int .Values.gateway.backupDays }}
    {{- if and $isPostgresql (eq $database.migrations "Hook") }}
    - --no-migrate
    {{- end }}
    {{- range .Values.gateway.trustedProxies }}
    - --trusted-proxies={{ . }}
    {{- end }}
    {{- range .Values.gateway.allowDestinations }}
    - --allow-destination={{ . }}
    {{- end }}
    {{- with .Values.gateway.extraArgs }}{{ toYaml . | nindent 4 }}{{ end }}
    env:
    # The operator makes both Secrets at its first start; until then the pod waits for them.
    - name: USHER_INSTALL_KEY
      valueFrom: {secretKeyRef: {name: usher-install-key, key: install.key}}
    # for people who run `usher` in this pod; the gateway itself has --data
    - {name: USHER_DATA, value: /tokens}
    {{- if $isPostgresql }}
    {{- include "usher.database.env" (list . $database.secret) | nindent 4 }}
    {{- end }}
    {{- with .Values.gateway.extraEnv }}{{ toYaml . | nindent 4 }}{{ end }}
    ports:
    - {name: http, containerPort: 8080}
    - {name: admin, containerPort: 9090}
    {{- include "usher.probes" .Values.gateway | nindent 4 }}
    # Routes stop sending before the gateway closes its port.
    lifecycle: {preStop: {sleep: {seconds: {{ if $isPostgresql }}{{ .Values.gateway.preStopSeconds }}{{ else }}5{{ end }}}}}
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: tokens, mountPath: /tokens, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    {{- if .Values.pages.brandConfigMap }}
    - {name: brand, mountPath: /brand, readOnly: true}
    {{- end }}
    {{- with include "usher.database.mounts" . }}{{ . | nindent 4 }}{{ end }}
    {{- with .Values.gateway.extraVolumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
  volumes:
  {{- if $isPostgresql }}
  # the cache of the configuration, for a start while the API server is away
  - name: data
    emptyDir: {sizeLimit: 1Gi}
  {{- else if .Values.gateway.storage.existingClaim }}
  - name: data
    persistentVolumeClaim: {claimName: {{ .Values.gateway.storage.existingClaim | quote }}}
  {{- end }}
  - name: tokens
    secret: {secretName: usher-admin-tokens, defaultMode: 0440}
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
  {{- with .Values.pages.brandConfigMap }}
  - name: brand
    configMap: {name: {{ . | quote }}}
  {{- end }}
  {{- with include "usher.database.volumes" . }}{{ . | nindent 2 }}{{ end }}
  {{- with .Values.gateway.extraVolumes }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}

{{- /* How many gateways run: one on SQLite, because its file has one owner. */ -}}
{{- define "usher.gateway.replicas" -}}
{{- .Values.gateway.replicaCount | default (ternary 3 1 (eq .Values.store.type "PostgreSQL")) -}}
{{- end -}}

{{- /* How pods of the gateway spread; a single one, on SQLite, has nothing to spread from. */ -}}
{{- define "usher.gateway.spread" -}}
{{- if .Values.gateway.topologySpreadConstraints }}
{{- toYaml .Values.gateway.topologySpreadConstraints }}
{{- else if eq .Values.store.type "PostgreSQL" }}
{{- /* `pod-template-hash`: otherwise the pods that an update replaces count too. */ -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- {maxSkew: 1, topologyKey: {{ . }}, whenUnsatisfiable: ScheduleAnyway, matchLabelKeys: [pod-template-hash]}
{{- end }}
{{- end }}
{{- end -}}
