//! Products against their definition in f64.

use proptest::prelude::*;
use pulp::WithSimd;

use super::*;
use crate::cpu::pieces::dispatch;
use crate::cpu::testing::{assert_close, draw};

struct Call<'a>(Extent, Left<'a>, &'a [f32], &'a mut [f32], bool);

impl WithSimd for Call<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        product(simd, self.0, self.1, self.2, self.3, self.4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_is_the_definition_by_rows_and_by_columns(
        m in 1_usize..20,
        k in 1_usize..30,
        n in prop_oneof![1_usize..20, Just(16), Just(48), Just(112)],
        gap in 0_usize..5,
        adds in any::<bool>(),
        by_rows in any::<bool>(),
    ) {
        let extent = Extent { m, k, n };
        let stride = gap + if by_rows { k } else { m };
        let (values, b, before) = (draw(1, stride * m.max(k)), draw(2, k * n), draw(3, m * n));
        let a = if by_rows {
            Left::Rows { values: &values, stride }
        } else {
            Left::Columns { values: &values, stride }
        };
        let mut c = before.clone();
        dispatch(n, Call(extent, a, &b, &mut c, adds));
        let at = |i: usize, j: usize| if by_rows { i * stride + j } else { j * stride + i };
        let expected: Vec<f64> = (0..m * n)
            .map(|place| {
                let (i, o) = (place / n, place % n);
                let term = |j: usize| f64::from(values[at(i, j)]) * f64::from(b[j * n + o]);
                let start = if adds { f64::from(before[place]) } else { 0.0 };
                start + (0..k).map(term).sum::<f64>()
            })
            .collect();
        assert_close("c", &c, &expected, 2e-6);
    }
}
